"""Two validators, one schema: what pydantic refuses the API server refuses too, where it can."""

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from pydantic import ValidationError

from aligntune.api.job import Manifest
from aligntune.core.config.errors import mistakes
from tests.cluster.control_plane import ControlPlane
from tests.integration.conftest import Api
from tests.unit.test_schema import SPEC_FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL: dict[str, Any] = {"name": "m"}
DATA: list[dict[str, Any]] = [{"name": "d"}]
SFT: dict[str, Any] = {"model": MODEL, "datasets": DATA}
DPO: dict[str, Any] = {"algo": "dpo", "model": MODEL, "datasets": DATA}
GRPO: dict[str, Any] = {
    "algo": "grpo",
    "model": MODEL,
    "datasets": DATA,
    "rewards": [{"name": "length"}],
}
STREAM = [{"name": "d", "streaming": True}]
CLAIM = {"claimName": "models"}
PUSH = {"push": {"repoId": "a/b"}, "tokenSecret": {"name": "hf", "key": "token"}}


def sft(**sections: Any) -> dict[str, Any]:
    return {"sft": SFT | sections, "storage": CLAIM}


def classify(**sections: Any) -> dict[str, Any]:
    return sft(task="text_classification", **sections)


def rl(base: dict[str, Any] = DPO, **sections: Any) -> dict[str, Any]:
    return {"rl": base | sections, "storage": CLAIM}


def runtime(**fields: Any) -> dict[str, Any]:
    return {"sft": SFT, "storage": CLAIM, "runtime": fields}


class Bad(NamedTuple):
    spec: dict[str, Any]
    path: str
    """Where pydantic says the mistake is."""
    server_says: str = ""
    """A part of what the API server says, where its words matter."""


GOOD: dict[str, dict[str, Any]] = {
    "the smallest": sft(),
    "classification": sft(task="text_classification", classification={"labels": ["a", "b"]}),
    "streamed classification": classify(
        datasets=STREAM, train={"maxSteps": 1}, classification={"labels": ["a", "b"]}
    ),
    "classification with defaults said aloud": classify(
        train={"lossOn": "auto", "packing": False, "paddingFree": False, "ligerKernel": False}
    ),
    "full tuning": sft(model=MODEL | {"tuning": "full"}),
    "qlora": sft(model=MODEL | {"quantization": {"bits": 4}, "lora": {"r": 8}}),
    "named target modules": sft(model=MODEL | {"lora": {"targetModules": ["q_proj", "v_proj"]}}),
    "a stream": sft(datasets=[{"name": "d", "streaming": True}], train={"maxSteps": 10}),
    "a mixture": sft(datasets=[{"name": "a", "weight": 2}, {"name": "b", "weight": 1.5}]),
    "a constant rate": sft(train={"lrScheduler": "constant", "warmupRatio": 0}),
    "evaluation": sft(evaluation={"splitRatio": 0.1, "everySteps": 5, "earlyStoppingPatience": 2}),
    "integers where numbers are asked": sft(train={"epochs": 1, "learningRate": 1}),
    "explicit nulls": sft(classification=None) | {"rl": None, "policy": {"startTimeoutSeconds": None}},
    "whole floats where integers are asked": sft(
        model=MODEL | {"quantization": {"bits": 4.0}}, train={"maxSteps": 10.0}
    ) | {"runtime": {"resources": {"limits": {"cpu": 2.0}}}},
    "an RL stream": rl(datasets=[{"name": "d", "streaming": True}], train={"maxSteps": 10}),
    "a vLLM server": rl(GRPO, generation={"vllm": "server", "vllmUrl": "http://v:8000"}),
    "dpo": rl(),
    "dpo with settings": rl(dpo={"beta": 0.2, "loss": "ipo"}),
    "dpo with what its loss needs": rl(dpo={"loss": "exo_pair", "labelSmoothing": 0.001}),
    "dpo without dropout": rl(model=MODEL | {"lora": {"dropout": 0}}),
    "grpo": rl(GRPO, grpo={"numGenerations": 4}, generation={"maxNewTokens": 64}),
    "ppo": rl(GRPO, algo="ppo", ppo={"kl": {"target": 6}, "klLimit": 8}),
    "reward model in place of functions": rl(GRPO, rewards=[], rewardModel={"name": "r"}),
    "a reward model's training": rl(algo="reward", reward={"centeringCoefficient": 0.01}),
    "reward parameters of any shape": rl(
        GRPO, rewards=[{"name": "regex", "params": {"pattern": "a+", "flags": [1, {"x": None}]}}]
    ),
    "ephemeral": sft() | {"storage": {"ephemeral": True}},
    "pushed instead of stored": {"sft": SFT, "hub": PUSH},
    "a whole runtime": runtime(
        nodes=2,
        gpusPerNode=8,
        resources={"requests": {"cpu": 4, "memory": "32Gi"}, "limits": {"memory": "1.5Gi"}},
        env=[{"name": "A", "value": "b"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        envFrom=[{"secretRef": {"name": "s"}}],
        volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "e", "emptyDir": {}}],
        volumeMounts=[{"name": "data", "mountPath": "/data", "subPath": "a/.b", "readOnly": True}],
        labels={"team": "a", "acme.org/cost-centre": "B_1", "empty": ""},
        nodeSelector={"topology.kubernetes.io/zone": "eu-1"},
        tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "tolerationSeconds": 0}],
        affinity={"nodeAffinity": {}},
        sharedMemory="1Gi",
    ),
    "sharded over GPUs": sft(distributed={"strategy": "fsdp2"}) | {"runtime": {"gpusPerNode": 2}},
    "sharded over nodes": rl(distributed={"strategy": "zero2"}) | {"runtime": {"nodes": 2}},
    "sharded over processes on CPUs": sft(distributed={"strategy": "zero3"})
    | {"runtime": {"gpusPerNode": 0, "processesPerNode": 2}},
    "a step of grpo split over processes": rl(GRPO, grpo={"promptsPerStep": 6, "numGenerations": 4})
    | {"runtime": {"nodes": 3, "gpusPerNode": 2}},
    "a batch that may be halved": rl() | {"policy": {"onCudaOutOfMemory": "HalveBatch"}},
    "a model of another job": sft(model={"fromJob": "chat", "lora": {"mergeOnSave": True}}),
    "a model as GGUF, too": rl(model=MODEL | {"gguf": ["q8_0", "q4_k_m"]}),
    "a classifier without GGUF": classify(model=MODEL | {"gguf": []}),
    "several models of other jobs": rl(
        GRPO, algo="ppo", model={"fromJob": "chat"}, referenceModel={"fromJob": "chat"},
        rewardModel={"fromJob": "judge"},
    ),
    "unsloth": sft() | {"backend": "unsloth"},
    "unsloth on one GPU, said aloud": rl()
    | {"backend": "unsloth", "runtime": {"nodes": 1, "gpusPerNode": 1, "processesPerNode": 1}},
    "unsloth on a CPU": sft() | {"backend": "unsloth", "runtime": {"gpusPerNode": 0}},
    "a policy": sft() | {"policy": {"maxRestarts": 0, "onStall": "Fail", "podRetentionSeconds": 0}},
}  # fmt: skip

EXACTLY_ONE = "set exactly one of sft (supervised) and rl"
BAD: dict[str, Bad] = {
    "neither method": Bad({"storage": CLAIM}, "spec", EXACTLY_ONE),
    "both methods": Bad(sft() | rl(), "spec", EXACTLY_ONE),
    "nowhere to put the model": Bad({"sft": SFT}, "spec.storage", "would be lost"),
    "claim and ephemeral": Bad(
        sft() | {"storage": {"claimName": "c", "ephemeral": True}}, "spec.storage", "exactly one"
    ),
    "push without a token": Bad(
        {"sft": SFT, "hub": {"push": {"repoId": "a/b"}}}, "spec.hub", "set hub.tokenSecret"
    ),
    "sharded over one process": Bad(
        rl(distributed={"strategy": "zero3"}), "spec.runtime", "share one model among several"
    ),
    "halving a batch that answers are drawn in": Bad(
        rl(GRPO) | {"policy": {"onCudaOutOfMemory": "HalveBatch"}},
        "spec.policy.onCudaOutOfMemory",
        "a smaller one makes another run",
    ),
    "sharded over one process of several GPUs": Bad(
        sft(distributed={"strategy": "fsdp2"})
        | {"runtime": {"gpusPerNode": 8, "processesPerNode": 1}},
        "spec.runtime",
        "raise gpusPerNode or nodes",
    ),
    "a step of grpo that cannot be split": Bad(
        rl(GRPO, train={"perDeviceBatchSize": 3}),
        "spec.rl.grpo.promptsPerStep",
        "cannot be split evenly over all processes",
    ),
    "a step of grpo that several nodes cannot split": Bad(
        rl(GRPO) | {"runtime": {"nodes": 3, "gpusPerNode": 0, "processesPerNode": 2}},
        "spec.rl.grpo.promptsPerStep",
        "change one of them",
    ),
    "unsloth on several nodes": Bad(
        sft() | {"backend": "unsloth", "runtime": {"nodes": 2}}, "spec.runtime", "use backend: trl"
    ),
    "unsloth on several GPUs": Bad(
        rl() | {"backend": "unsloth", "runtime": {"gpusPerNode": 2, "processesPerNode": 1}},
        "spec.runtime", "trains in one process",
    ),
    "unsloth in several processes": Bad(
        sft() | {"backend": "unsloth", "runtime": {"gpusPerNode": 0, "processesPerNode": 2}},
        "spec.runtime", "trains in one process",
    ),
    "unsloth and sharding": Bad(
        sft(distributed={"strategy": "fsdp2"})
        | {"backend": "unsloth", "runtime": {"gpusPerNode": 2}},
        "spec.runtime", "use backend: trl",
    ),
    "an unknown backend": Bad(sft() | {"backend": "axolotl"}, "spec.backend", "Unsupported value"),
    "an unknown algorithm": Bad(rl(algo="kto"), "spec.rl.algo"),
    "another algorithm's section": Bad(rl(ppo={}), "spec.rl.ppo", "ppo settings need algo: ppo"),
    "generation in dpo": Bad(rl(generation={}), "spec.rl.generation", "remove generation"),
    "grpo without rewards": Bad(rl(GRPO, rewards=[]), "spec.rl.rewards", "something to reward"),
    "rewards in dpo": Bad(rl(rewards=[{"name": "length"}]), "spec.rl.rewards", "preference pairs"),
    "no model": Bad({"sft": {"datasets": DATA}, "storage": CLAIM}, "spec.sft.model", "Required"),
    "an empty name": Bad(sft(model={"name": ""}), "spec.sft.model", "exactly one of name"),
    "a name and another job": Bad(
        sft(model=MODEL | {"fromJob": "chat"}), "spec.sft.model", "exactly one of name"
    ),
    "a reward model without a name": Bad(
        rl(GRPO, rewardModel={}), "spec.rl.rewardModel", "exactly one of name"
    ),
    "no data": Bad(sft(datasets=[]), "spec.sft.datasets"),
    "too many sources": Bad(sft(datasets=DATA * 33), "spec.sft.datasets"),
    "quantised full tuning": Bad(
        sft(model=MODEL | {"tuning": "full", "quantization": {}}),
        "spec.sft.model.quantization", "cannot be trained in full",
    ),
    "adapters in full tuning": Bad(
        sft(model=MODEL | {"tuning": "full", "lora": {}}), "spec.sft.model.lora", "no effect"
    ),
    "3 bits": Bad(sft(model=MODEL | {"quantization": {"bits": 3}}), "spec.sft.model.quantization.bits"),
    "a word for a number": Bad(sft(train={"learningRate": "2e-4"}), "spec.sft.train.learningRate"),
    "a fraction for a count": Bad(sft(train={"maxSteps": 1.5}), "spec.sft.train.maxSteps"),
    "a truth for a count": Bad(sft(train={"maxSteps": True}), "spec.sft.train.maxSteps"),
    "beta of zero": Bad(rl(dpo={"beta": 0}), "spec.rl.dpo.beta"),
    "exo_pair without smoothing": Bad(
        rl(dpo={"loss": "exo_pair"}), "spec.rl.dpo.labelSmoothing", "set 0.001"
    ),
    "smoothing without effect": Bad(
        rl(dpo={"labelSmoothing": 0.1}), "spec.rl.dpo.labelSmoothing", "no effect with this loss"
    ),
    "dropout in dpo": Bad(
        rl(model=MODEL | {"lora": {"dropout": 0.1}}), "spec.rl.model.lora.dropout", "would blur"
    ),
    "dropout in a reward model": Bad(
        rl(algo="reward", model=MODEL | {"lora": {"dropout": 0.1}}),
        "spec.rl.model.lora.dropout", "would blur",
    ),
    "a reference for a reward model": Bad(
        rl(algo="reward", referenceModel={"name": "r"}), "spec.rl.referenceModel", "no reference"
    ),
    "a reward model's settings in dpo": Bad(rl(reward={}), "spec.rl.reward", "need algo: reward"),
    "precomputing over a stream": Bad(
        rl(datasets=[{"name": "d", "streaming": True}], train={"maxSteps": 1},
           dpo={"precomputeReference": True}),
        "spec.rl.dpo.precomputeReference", "not there before training",
    ),
    "dropout in ppo": Bad(
        rl(GRPO, algo="ppo", model=MODEL | {"lora": {"dropout": 0.1}}),
        "spec.rl.model.lora.dropout", "would blur",
    ),
    "accumulation in ppo": Bad(
        rl(GRPO, algo="ppo", train={"gradientAccumulationSteps": 2}),
        "spec.rl.train.gradientAccumulationSteps", "works it out",
    ),
    "vLLM in ppo": Bad(
        rl(GRPO, algo="ppo", generation={"vllm": "colocate"}),
        "spec.rl.generation.vllm", "with transformers alone",
    ),
    "dropout of one": Bad(sft(model=MODEL | {"lora": {"dropout": 1}}), "spec.sft.model.lora.dropout"),
    "a vLLM server nowhere": Bad(
        rl(GRPO, generation={"vllm": "server"}), "spec.rl.generation.vllmUrl", "go together"
    ),
    "a vLLM server that is not used": Bad(
        rl(GRPO, generation={"vllmUrl": "http://v"}), "spec.rl.generation.vllmUrl", "go together"
    ),
    "an RL stream without an end": Bad(
        rl(datasets=[{"name": "d", "streaming": True}]), "spec.rl.datasets", "set train.maxSteps"
    ),
    "a share of an RL stream": Bad(
        rl(datasets=[{"name": "d", "streaming": True}], train={"maxSteps": 1},
           evaluation={"splitRatio": 0.1}),
        "spec.rl.evaluation", "cannot be held out",
    ),
    "the best of no evaluation": Bad(
        sft(evaluation={"everySteps": 1, "keepBest": True}),
        "spec.sft.evaluation.everySteps", "nothing to evaluate on",
    ),
    "patience with no evaluation": Bad(
        sft(evaluation={"everySteps": 1, "earlyStoppingPatience": 2}),
        "spec.sft.evaluation.everySteps", "nothing to evaluate on",
    ),
    "a negative weight": Bad(sft(datasets=[{"name": "d", "weight": -1}]), "spec.sft.datasets[0].weight"),
    "a stream without an end": Bad(
        sft(datasets=[{"name": "d", "streaming": True}]), "spec.sft.datasets", "set train.maxSteps"
    ),
    "a share of a stream": Bad(
        sft(datasets=[{"name": "d", "streaming": True}], train={"maxSteps": 1},
            evaluation={"splitRatio": 0.1}),
        "spec.sft.evaluation", "cannot be held out",
    ),
    "a sample of a stream": Bad(
        sft(datasets=[{"name": "d", "streaming": True, "maxSamples": 1}], train={"maxSteps": 1}),
        "spec.sft.datasets[0].maxSamples",
    ),
    "a warm-up to a constant rate": Bad(
        sft(train={"lrScheduler": "constant", "warmupRatio": 0.1}),
        "spec.sft.train.warmupRatio", "set lrScheduler to constant_with_warmup",
    ),
    "patience without evaluations": Bad(
        sft(evaluation={"earlyStoppingPatience": 2}), "spec.sft.evaluation.earlyStoppingPatience"
    ),
    "two sources of evaluation": Bad(
        sft(evaluation={"splitRatio": 0.1, "datasets": [{"name": "e"}]}),
        "spec.sft.evaluation.splitRatio",
    ),
    "classification settings in sft": Bad(
        sft(classification={}), "spec.sft.classification", "need task: text_classification"
    ),
    "one class": Bad(
        classify(classification={"labels": ["a"]}),
        "spec.sft.classification.labels", "classification needs at least two labels",
    ),
    "packing of labelled texts": Bad(classify(train={"packing": True}), "spec.sft.train", "one label per row"),
    "a loss on the tokens of labelled texts": Bad(
        classify(train={"lossOn": "all"}), "spec.sft.train", "one label per row"
    ),
    "a chat template for labelled texts": Bad(
        classify(model=MODEL | {"chatTemplate": "x"}), "spec.sft.model", "reads plain text"
    ),
    "a classifier as GGUF": Bad(
        classify(model=MODEL | {"gguf": ["q8_0"]}), "spec.sft.model.gguf", "models that write text"
    ),
    "a reward model as GGUF": Bad(
        rl(algo="reward", model=MODEL | {"gguf": ["f16"]}), "spec.rl.model.gguf", "gives scores"
    ),
    "an unknown kind of GGUF": Bad(
        sft(model=MODEL | {"gguf": ["q9_9"]}), "spec.sft.model.gguf[0]", "q4_k_m"
    ),
    "a stream of unknown classes": Bad(
        classify(datasets=STREAM, train={"maxSteps": 1}), "spec.sft.datasets", "set classification.labels"
    ),
    "balancing a stream": Bad(
        classify(datasets=STREAM, train={"maxSteps": 1},
                 classification={"labels": ["a", "b"], "classWeights": "balanced"}),
        "spec.sft.classification", "cannot be counted",
    ),
    "a host path": Bad(
        runtime(volumes=[{"name": "h", "hostPath": {"path": "/"}}]), "spec.runtime.volumes[0].hostPath"
    ),
    "a volume of nothing": Bad(runtime(volumes=[{"name": "v"}]), "spec.runtime.volumes[0]", "exactly one"),
    "two sources of a variable": Bad(
        runtime(env=[{"name": "A", "value": "a", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]),
        "spec.runtime.env[0].valueFrom", "value or valueFrom",
    ),
    "a variable of no name": Bad(runtime(env=[{"name": "a b"}]), "spec.runtime.env[0].name"),
    "a volume of the operator's name": Bad(
        runtime(volumes=[{"name": "storage", "emptyDir": {}}]),
        "spec.runtime.volumes[0].name", "choose another name",
    ),
    "a mount of no volume": Bad(
        runtime(volumeMounts=[{"name": "v", "mountPath": "/v"}]),
        "spec.runtime.volumeMounts", "names a volume that is not in volumes",
    ),
    "a mount from outside its volume": Bad(
        runtime(volumes=[{"name": "v", "emptyDir": {}}],
                volumeMounts=[{"name": "v", "mountPath": "/v", "subPath": "a/../../b"}]),
        "spec.runtime.volumeMounts[0].subPath",
    ),
    "a label of two words": Bad(runtime(labels={"a b": "c"}), "spec.runtime.labels", "NAME or DOMAIN/NAME"),
    "an annotation of no name": Bad(runtime(annotations={"a/": "c"}), "spec.runtime.annotations", "NAME or DOMAIN/NAME"),
    "a node of two words": Bad(runtime(nodeSelector={"a": "b c"}), "spec.runtime.nodeSelector.a"),
    "a taint of two words": Bad(runtime(tolerations=[{"key": "a b"}]), "spec.runtime.tolerations[0].key"),
    "a resource of two words": Bad(
        runtime(resources={"limits": {"nvidia gpu": 1}}), "spec.runtime.resources.limits", "NAME or DOMAIN/NAME"
    ),
    "a GPU of two words": Bad(runtime(gpuResource="nvidia gpu"), "spec.runtime.gpuResource"),
    "a GPU of no vendor": Bad(runtime(gpuResource="gpu"), "spec.runtime.gpuResource"),
    "less than nothing": Bad(
        runtime(resources={"requests": {"cpu": -1}}), "spec.runtime.resources.requests.cpu"
    ),
    "a quantity of nothing": Bad(
        runtime(resources={"requests": {"cpu": "lots"}}), "spec.runtime.resources.requests.cpu"
    ),
    "a relative mount": Bad(
        runtime(volumes=[{"name": "v", "emptyDir": {}}], volumeMounts=[{"name": "v", "mountPath": "data"}]),
        "spec.runtime.volumeMounts[0].mountPath",
    ),
    "a retention beyond all dates": Bad(
        sft() | {"policy": {"podRetentionSeconds": 10**12}}, "spec.policy.podRetentionSeconds"
    ),
    "more nodes than a name has room for": Bad(runtime(nodes=1001), "spec.runtime.nodes"),
    "no nodes": Bad(runtime(nodes=0), "spec.runtime.nodes"),
    "a path out of the claim": Bad(
        sft() | {"storage": {"claimName": "c", "subPath": "../other"}}, "spec.storage.subPath"
    ),
    "an unknown field": Bad(sft(trian={}), "spec.sft.trian", 'unknown field "spec.sft.trian"'),
    "an unknown section": Bad(sft() | {"resources": {}}, "spec.resources", 'unknown field "spec.resources"'),
}  # fmt: skip


def job(spec: dict[str, Any], name: str = "job") -> dict[str, Any]:
    return {
        "apiVersion": "aligntune.io/v1alpha1",
        "kind": "AlignTuneJob",
        "metadata": {"name": name},
        "spec": copy.deepcopy(spec),
    }


def paths(document: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Manifest.parse(document)
    return [mistake.path for mistake in mistakes(caught.value, Manifest)]


@pytest.mark.parametrize("case", GOOD)
def test_both_accept(api: Api, case: str) -> None:
    Manifest.parse(job(GOOD[case]))
    api("create", "--dry-run=server", "-f", "-", stdin=job(GOOD[case]))


@pytest.mark.parametrize("case", BAD)
def test_both_refuse(api: Api, case: str) -> None:
    bad = BAD[case]
    assert bad.path in paths(job(bad.spec))
    said = api.refusal("create", "--dry-run=server", "-f", "-", stdin=job(bad.spec))
    assert bad.server_says in said


@pytest.mark.parametrize("name", ["a" * 51, "a.b"])
def test_both_refuse_a_name_that_pods_could_not_carry(api: Api, name: str) -> None:
    assert paths(job(sft(), name)) == ["metadata.name"]
    said = api.refusal("create", "--dry-run=server", "-f", "-", stdin=job(sft(), name))
    assert "at most 50 lower case letters" in said


def test_kubectl_explains_every_field(control_plane: ControlPlane) -> None:
    explained: Callable[[str], str] = lambda path: control_plane.kubectl(  # noqa: E731
        "explain", f"aligntunejob.{path}", "--recursive=false"
    )
    for path in ("spec.sft.train.learningRate", "spec.rl.dpo.beta", "spec.policy.onStall"):
        assert " ".join(SPEC_FIELDS[path]["description"].split()[:6]) in " ".join(
            explained(path).split()
        )
