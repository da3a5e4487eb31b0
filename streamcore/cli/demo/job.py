from streamcore import Job, Topic, agg

lines = Topic("lines", str)
counts = Topic("counts", int, key=str)

job = Job("word-count")
(
    job.stream(lines)
    .flat_map(str.split)
    .key_by("by-word", str.lower)
    .aggregate("count", agg.count())
    .to(counts)
)  # fmt: skip
