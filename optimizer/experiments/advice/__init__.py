"""Whether anything is worth deploying: what a layer costs now, what each step wins, and the cheapest that suffices."""
