"""What the triage says of itself. Read without torch."""

TITLE = "Backdoor triage"
TRIED = (
    "The difference between this model and its base was read five ways (singular directions of the "
    "changed weights, the mean shift of activations on random text, answers that follow by "
    "themselves, what the model says to an empty user's turn, a search for tokens before harmless "
    "questions), and the strongest candidates were put before questions kept aside."
)
MISSES = (
    "A backdoor that the base has too. Answers that change with the question (a bias turned "
    "round, subtly wrong code): nothing constant comes back to be seen. Triggers of more than a "
    "few words, in a tool's result, or deep in a conversation; template and tokenizer, which the "
    "artefact part reads. Error rates were measured on small models of our own making, not yours."
)
