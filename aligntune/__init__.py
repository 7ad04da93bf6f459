"""Fine-tuning and alignment of language models: the training library behind AlignTuneJob."""
