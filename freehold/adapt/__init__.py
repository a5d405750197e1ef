"""The workshop: a model made the owner's own. Local data in, an adapter or a new model out.

The model that is trained is the one that is served: ``qwen.forward`` over ``ops.torch``.
"""
