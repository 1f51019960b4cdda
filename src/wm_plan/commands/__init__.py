"""The commands, one file each: thin fronts over the library. `front.py` holds what they share."""
