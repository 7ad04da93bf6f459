"""Does GRPO learn? The share of right answers to held-out sums, before and after, and two controls.

    python bench/learning_grpo.py [SEEDS] [--no-smollm]

by_reward.py says what is measured. 100 steps of 16 prompts with 8 answers each.
"""

from by_reward import main

SETTINGS = {
    "grpo": {"promptsPerStep": 16, "numGenerations": 8},
    "train": {"maxSteps": 100, "perDeviceBatchSize": 128, "warmupRatio": 0.1},
    "logging": {"everySteps": 100},
}

if __name__ == "__main__":
    main("grpo", SETTINGS, rate=1e-3)
