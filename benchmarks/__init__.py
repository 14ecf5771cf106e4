"""Each script prints one table; ``--json FILE`` keeps it, ``--check`` fails on a missed bar."""
