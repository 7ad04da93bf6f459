module aligntune.io/tests/cluster/pause

go 1.25.0
