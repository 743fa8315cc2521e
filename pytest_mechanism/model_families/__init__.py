"""What differs between model families, in one room.

`wrapped` is what engines and methods see of a model; `bridge` implements it with transformer-lens.
`layers` knows how families call their layers, `rotary` how their positions depend on a text's
length, `sizes` what their config.json calls a size (without torch).
"""
