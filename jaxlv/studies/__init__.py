"""What the verbs do: open a subject, measure it, and write a folder whole. Nothing here prints or reads arguments."""
