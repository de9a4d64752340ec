"""Results as tables, sentences, pictures and JSON. Must not know where they are shown: it never prints."""
