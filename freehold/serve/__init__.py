"""The front counter: HTTP in OpenAI's shape, in front of an Engine and a Codec it is handed."""
