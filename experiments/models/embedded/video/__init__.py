"""The recipe that trains ``emoji-video``: a Wan-type transformer for nine frames of a moving emoji on varied backgrounds."""
