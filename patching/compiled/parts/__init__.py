"""The counterparts in JAX of a description's parts, each of one file of `graphs/lift`.

They take an `ArrayPart` where theirs take the description; shape letters and meaning are as there.
The stream and everything beside a matrix product is float32 at least; products have the weights'
type and add up in float32.
"""
