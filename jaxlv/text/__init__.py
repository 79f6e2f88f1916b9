"""Series as text, text as tokens, tokens as training windows."""
