"""The schema of the groups whose options somebody may add to: which keys an option has, and where its code lies.

Imports neither torch nor lightning, so that a mistake is answered at once. `docs/extend.md` shows how to add one.
"""
