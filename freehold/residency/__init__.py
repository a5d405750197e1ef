"""Home: what a process may reach is shut by the kernel, and every attempt beyond is recorded."""
