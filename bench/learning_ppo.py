"""Does PPO learn? The share of right answers to held-out sums, before and after, and two controls.

    python bench/learning_ppo.py [SEEDS] [--no-smollm]

by_reward.py says what is measured. 60 rollouts of 256 answers, with two passes of two steps each.
"""

from by_reward import main

SETTINGS = {
    "ppo": {
        "rolloutBatchSize": 256,
        "epochs": 2,
        "minibatches": 2,
        "kl": {"coefficient": 0.01},
    },
    "train": {
        "maxSteps": 240,
        "perDeviceBatchSize": 128,
        "lrScheduler": "constant_with_warmup",
        "warmupRatio": 0.05,
    },
    "logging": {"everySteps": 20},
}

if __name__ == "__main__":
    main("ppo", SETTINGS, rate=5e-4)
