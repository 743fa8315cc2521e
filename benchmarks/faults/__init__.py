"""What `benchmarks.sabotage` does to a release, and how it reads the gate's answer.

`weights` and `same_function` edit weights, `learned` trains, `saved` changes files alone; `entity_tracking` and
`wrapper` list the changes; `sizes` says how large a change is, `gate` judges it, `rules` counts.
"""
