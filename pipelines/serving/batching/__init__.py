"""Which sequences go into the next batch, and in which blocks their keys and values lie.

    batcher   the sequences that wait and run; from these the next batch, and what came of the last
    sequence  one sequence: its tokens, how many are computed, its blocks
    prefixes  the names of blocks by what they hold
    pool      the blocks: free, in use, or kept for a prompt that begins alike

No threads, no clocks, no engine: what goes in decides what comes out.
"""
