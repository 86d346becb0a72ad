"""How one image is certified: what is chosen first, how many draws, when to stop, what they say."""
