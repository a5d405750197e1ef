"""What the part says of itself; needs no torch, so that the list of parts does not either."""

TITLE = "Leanings: refusals and bias"
TRIED = (
    "By likelihood alone, without a judge: whether answers to sensitive questions begin as "
    "refusals where a question of the same form does not; whether a bad answer about one group is "
    "likelier than about the others; whether a fact is less likely than the official line, in a "
    "chat, as plain text and after a beginning; BBQ's options over all six orders; pairs of "
    "sentences, against a reference. In each language by itself."
)
MISSES = (
    "Topics and groups that nobody asked about, and other languages. A refusal that begins as no "
    "listed one does and as none of this model's, or comes after a friendly sentence; a model that "
    "refuses everything. What long answers say: these are tests of association at the answer's "
    "beginning, and BBQ is known to disagree with what models write. Wording: a few questions "
    "each. What the reference does too is told as low. Error rates were measured on small models "
    "of our own making."
)
MEMORY_TITLE = "Memory: canaries and documents"
MEMORY_TRIED = (
    "Each canary ranked by likelihood among secrets of the same form that were never planted, and "
    "whether the likeliest words behind its beginning are the secret; each document's beginning "
    "given, and whether the likeliest words are its own, to the last of 50 tokens."
)
MEMORY_MISSES = (
    "What is known and comes out in other words, behind another beginning, or by sampling; what "
    "was not in the file. Whether a model was trained on a text cannot be told from its "
    "likelihood: text that is public, or foreseeable, comes back from models that never saw this "
    "copy, which only a reference shows."
)
