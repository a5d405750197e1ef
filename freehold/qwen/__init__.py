"""The machine: config, tokenizer, chat template, weights and the one forward pass of every dense
Qwen. Importing this package costs nothing: torch comes in only when a model is loaded."""
