import pytest

from aligntune.core.scrub import scrub

SECRET = "Zq81xY7pLm42Kd93Vb56Nc"


@pytest.mark.parametrize(
    "line",
    [
        f"using hf_{SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"Authorization: Basic {SECRET}==",
        f"GET /x?token={SECRET}&page=2",
        f"GET /x?X-Amz-Security-Token={SECRET}",
        f"GET /x?X-Amz-Signature={SECRET}",
        f"HF_TOKEN={SECRET}",
        f"token = {SECRET}",
        f'{{"token": "{SECRET}"}}',
        f"WANDB_API_KEY: {SECRET}",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
        f"password='{SECRET} and more'",
        f"postgresql://user:{SECRET}@db.example/runs",
        f"https://{SECRET}@git.example/data",
        f"pushed with ghp_{SECRET}",
    ],
)
def test_secrets_are_hidden(line: str) -> None:
    assert SECRET not in scrub(line)
    assert "***" in scrub(line)


def test_an_aws_key_id_is_hidden() -> None:
    assert scrub("key AKIAIOSFODNN7EXAMPLE used") == "key *** used"


@pytest.mark.parametrize(
    "line",
    [
        "num_tokens=1234, tokens_per_second: 9100",
        "pad_token=<|endoftext|>",
        "eos_token: </s>",
        "ModuleNotFoundError: No module named 'hf_transfer'",
        "loss=1.92 at https://huggingface.co/docs",
        "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB",
    ],
)
def test_ordinary_log_lines_stay_as_they_are(line: str) -> None:
    assert scrub(line) == line
