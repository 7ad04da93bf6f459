"""The Kubernetes operator that runs AlignTuneJobs."""
