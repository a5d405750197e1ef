"""vLLM, started and kept by Freehold: in a lock, and where the kernel makes one in a network of its
own that leads nowhere."""
