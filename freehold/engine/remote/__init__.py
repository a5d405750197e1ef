"""An engine that is another program, behind the OpenAI API's words: vLLM, SGLang, llama-server."""
