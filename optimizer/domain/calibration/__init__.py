"""A preset's constants from a user's own timings. Must not know how timings were taken or are shown."""
