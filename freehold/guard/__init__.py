"""The watch post: text in, readings out. It never enforces; whoever asked does."""
