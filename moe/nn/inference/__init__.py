"""The model as it answers: a pass over the newest tokens of many sequences at once.

    share      a rank's share of the model: tokens or hidden states in, hidden states or logits out
    arrivals   experts that come to a share while it answers
    layer      one layer of it: attention, then a feed-forward or experts
    experts    the experts of a layer over few rows
    attention  one layer's attention over the blocks that hold keys and values
    store      the memory of keys and values, in blocks
    rows       the rows of a pass: which sequence, which positions, which blocks, which adapter
    adapters   what adapters add to products
    operands   the weights as products take them: float32, 16 or 8 bits

Nothing here is recorded by autograd, measured or dropped: ``moe.nn.decoder`` has the same function
for training, and is its oracle. A module imports only from modules on lower lines.
"""
