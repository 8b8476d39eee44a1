"""The recipe that trains ``emoji-flux``: a Flux-type transformer for 128x128 emoji on varied backgrounds."""
