"""The bodies of requests: JSON from anyone, checked field by field. Imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError

from folio.config.section import Section
from folio.models.sampling import SamplingParams
from folio.runtime.terminal import did_you_mean
from folio.runtime.untrusted import UntrustedFileError, check_depth, parse_json, shown
from folio.serve.errors import ApiError
from folio.serve.limits import MAX_CHOICES, MAX_DEPTH, MAX_LOGPROBS, MAX_STOP_LENGTH, MAX_STOPS

Prompt = str | list[int]
"""A text, or its token ids."""

StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]


class Body(Section):
    """A JSON object in which unknown fields and wrong types are errors. A field that is null is left out."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Fields of OpenAI's API that Folio does not have, and the values that ask for nothing."""

    model: str | None = None

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Check a body. Raises: ApiError for the first thing that is wrong with it."""
        values = {name: value for name, value in _parse_object(body).items() if value is not None}
        for name, allowed in cls.neutral.items():
            if name in values and (value := values.pop(name)) not in allowed:
                raise ApiError(f"{name}={shown(value)} is not supported; leave {name} out", param=name)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _explain(error, [*cls.model_fields, *cls.neutral]) from None


class StreamOptions(Section):
    """`stream_options` of OpenAI's API."""

    include_usage: bool = False
    """Whether the stream ends with the numbers of tokens."""


class TextBody(Body):
    """The fields that all requests for text share: OpenAI's, then those of `scripts/generate.py` and vLLM."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
        "logit_bias": ({},),
    }

    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    max_tokens: Annotated[int, Field(ge=0)]
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] = Field(default=[])
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    user: str | None = None
    """Ignored."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    min_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    ignore_eos: bool = False
    """Whether a text continues after the token that ends a document."""

    def sampling(self) -> SamplingParams:
        return SamplingParams(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p if self.top_p < 1 else None,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
        )

    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop


class CompletionBody(TextBody):
    """The body of /v1/completions."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {**TextBody.neutral, "suffix": ("",), "best_of": (1,)}

    prompt: Any = ""
    max_tokens: Annotated[int, Field(ge=0)] = 16
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool = False

    def prompts(self) -> list[Prompt]:
        """Return the prompts: one for a text or a list of ids, several for a list of these. Raises: ApiError."""
        prompt = self.prompt
        prompts = prompt if isinstance(prompt, list) and prompt and not _is_ids(prompt) else [prompt]
        if not all(isinstance(item, str) or _is_ids(item) for item in prompts):
            raise ApiError(
                f"prompt={shown(prompt)} must be a text, a list of texts, a list of token ids or a list of such lists",
                param="prompt",
            )
        return prompts


class TextPart(Section):
    """A part of a message; Folio's models read text alone."""

    type: Literal["text"]
    text: str


class Message(Section):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None
    """Ignored."""

    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(TextBody):
    """The body of /v1/chat/completions."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **TextBody.neutral,
        "response_format": ({"type": "text"},),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "store": (False,),
    }

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=0)] = 256
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    """OpenAI's newer name of max_tokens, which it replaces."""
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] = 0


class TokenizeBody(Body):
    """The body of /tokenize, as vLLM has it."""

    prompt: str
    add_special_tokens: bool = True
    """Ignored: Folio's tokenizers add none."""


class DetokenizeBody(Body):
    """The body of /detokenize."""

    tokens: list[int]


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body. Raises: ApiError."""
    origin = Path("the body")
    try:
        value = parse_json(body.decode("utf-8"), origin)
        check_depth(value, origin, MAX_DEPTH)
    except UnicodeDecodeError as error:
        raise ApiError(f"the body is not UTF-8 text (byte {error.start}); encode it as UTF-8") from None
    except UntrustedFileError as error:
        raise ApiError(f"the body {error.problem}; send a JSON object") from None
    if not isinstance(value, dict):
        raise ApiError(f"the body is {shown(value)}; send a JSON object")
    return value


def _explain(error: ValidationError, fields: list[str]) -> ApiError:
    """Return one line about the first field with an error: a field of several types has an error for each."""
    problems = error.errors(include_url=False)
    first = [problem for problem in problems if problem["loc"][0] == problems[0]["loc"][0]]
    name = max((_field(problem["loc"]) for problem in first), key=lambda name: name.count("."))
    same = [problem for problem in first if _field(problem["loc"]) == name]
    kind = same[0]["type"]
    if kind == "extra_forbidden":
        return ApiError(f"{shown(name)} is not a field of this request{did_you_mean(name, fields)}", param=shown(name))
    if kind == "missing":
        return ApiError(f"{name} is missing; give it", param=name)
    rules = " or ".join(dict.fromkeys(problem["msg"].removeprefix("Input should be ") for problem in same))
    return ApiError(f"{name}={shown(repr(same[0]['input']))} must be {rules}", param=name)


def _field(place: tuple[int | str, ...]) -> str:
    """Return messages.0.content for the place of an error, without the types of a union that pydantic adds to it."""
    head, *rest = place
    return ".".join(map(str, [head, *(part for part in rest if isinstance(part, int) or _is_field(part))]))


def _is_field(part: str) -> bool:
    return part.isidentifier() and part != "str"
