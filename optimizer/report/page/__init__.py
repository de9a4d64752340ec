"""Pages that a browser shows without a network, and pictures of them. Must not know commands, and never prints."""
