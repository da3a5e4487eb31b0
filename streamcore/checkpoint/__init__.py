"""Checkpoints of tasks' states: RocksDB's files in a store that outlives the machine, named by manifests.

    store      the port: objects of bytes by key, each created once
    directory, objects, memory   its implementations; opening: from one setting
    manifest   what one checkpoint is, byte by byte, and where everything lies
    owner      whose a prefix is
    snapshot   from a live store to files; upload: from files to the store; background: on a thread beside
    restore    from the newest that verifies to a state directory
    collect    what may be deleted, and when; holds keep what a savepoint names
    verify     whether one is whole

Law 7: a checkpoint counts only once every byte is uploaded, hashed and named by its manifest; nothing is overwritten.
Law 8: what a committed metadata or a kept manifest names is not deleted.
"""
