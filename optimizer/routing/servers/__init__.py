"""How servers choose among the replicas of an expert today, each rule in a file of its own, replayed exactly.

A rank of a server is a source here: where the hardware's tokens live on mesh rows, a row acts as a rank would. The
copies of an expert are taken in the order of their slots. What any of these rules needs, a source knows by itself.
"""
