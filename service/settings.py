"""Every serving option: read once at start-up from flags, `FIELDMARK_*` variables and defaults, then passed in."""

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

BUNDLED_MODEL = Path(__file__).parent / "bundled"
MIB = 1024 * 1024


class Settings(BaseSettings):
    """Serving options; names of sizes and times end in their unit."""

    model_config = SettingsConfigDict(
        env_prefix="FIELDMARK_", env_ignore_empty=True, frozen=True, extra="ignore", protected_namespaces=()
    )

    model: Path = Field(BUNDLED_MODEL, description="An .onnx file, or a folder of NAME/VERSION.onnx.")
    default_model: str = Field("", description="Model that answers without `?model=`; empty: the first by name.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    device: Literal["auto", "cuda", "cpu"] = Field("auto", description="`cuda` refuses to start without a GPU.")
    precision: Literal["fp32", "int8", "auto"] = Field(
        "fp32",
        description="Which file answers: NAME/VERSION.onnx; NAME/VERSION.int8.onnx beside it; or `auto`: the "
        "second one where its recorded quality suffices and it is 1.3 times as fast.",
    )

    cpu_runs: int = Field(
        0,
        ge=0,
        le=256,
        description="Threads that decode, run and render without a GPU; a photo that is alone is run by as many, at "
        "most 8. 0: one a core.",
    )
    decode_threads: int = Field(
        0, ge=0, le=256, description="Threads that decode and render beside a GPU; 0: one a core."
    )
    max_batch_size: int = Field(32, ge=1, le=256, description="Most images in one CUDA batch.")
    max_wait_ms: float = Field(0, ge=0, le=1000, description="How long a CUDA batch waits to fill.")
    gpu_tf32: bool = Field(False, description="Let CUDA round to TF32: faster, maps differ by about 1e-3.")
    gpu_memory_limit_bytes: int = Field(
        0,
        ge=0,
        description="Most GPU memory of the session of each batch size (1, 2, 4, … MAX_BATCH_SIZE); 0: no limit.",
    )

    max_upload_bytes: int = Field(20 * MIB, ge=1024, description="Most bytes of one request body.")
    max_files: int = Field(32, ge=1, le=1024, description="Most images in one request.")
    max_pixels: int = Field(50_000_000, ge=1, description="Most pixels of one image, as its header declares them.")
    max_decode_bytes: int = Field(384 * MIB, ge=MIB, description="Most memory that decoding one image may take.")
    formats: str = Field(
        "JPEG,PNG,WEBP,GIF,BMP,TIFF,AVIF,HEIC",
        pattern=r"^(JPEG|PNG|WEBP|GIF|BMP|TIFF|AVIF|HEIC)(,(JPEG|PNG|WEBP|GIF|BMP|TIFF|AVIF|HEIC))*$",
        description="Image formats decoded, comma-separated; HEIC also needs the extra `heif`.",
    )
    max_requests: int = Field(256, ge=1, description="Most requests in flight; more: 429.")
    max_bytes_in_flight: int = Field(256 * MIB, ge=1024, description="Most body bytes in flight; more: 429.")
    request_timeout_ms: float = Field(10_000, gt=0, description="Default and maximum of `X-Request-Timeout-Ms`.")
    header_timeout_s: float = Field(10, gt=0, description="Longest time until a request's header has arrived.")
    body_timeout_s: float = Field(30, gt=0, description="Longest time until a request's body has arrived.")
    shutdown_grace_s: float = Field(20, gt=0, description="Longest time for accepted requests to finish when stopping.")
    poll_interval_s: float = Field(2, gt=0, description="How often the models folder is read for changes.")

    feedback_file: Path | None = Field(
        None, description="JSON lines of what users say by POST /feedback; without it /feedback answers 403."
    )
    max_feedback_bytes: int = Field(
        16 * MIB, ge=1024, description="Most bytes of that file; when it is full, /feedback answers 503."
    )
    api_keys_file: Path | None = Field(
        None,
        description="File of API keys, one a line, # for comments; guards /classify, /explain, /feedback, /models and "
        "/v2.",
    )
    admin_key_file: Path | None = Field(None, description="File of the key for /admin; without it /admin answers 403.")
    admin_port: int = Field(0, ge=0, le=65535, description="Separate port of /metrics and /admin; 0: the main port.")
    cors_origins: str = Field("", description="Origins whose scripts may call the service, comma-separated; `*`: all.")
    root_path: str = Field("", pattern=r"^(/[A-Za-z0-9._~-]+)*$", description="Path prefix set by a proxy.")
    max_header_bytes: int = Field(32 * 1024, ge=1024, description="Most bytes of a request's header.")

    log_format: Literal["auto", "json", "console"] = Field("auto", description="`auto`: JSON unless on a terminal.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level logged.")

    @field_validator("model", "host", "feedback_file", "api_keys_file", "admin_key_file", mode="before")
    @classmethod
    def _is_named(cls, value: Any) -> Any:
        """Refuse empty text: as a host it means every address, as a path the current folder."""
        if isinstance(value, str) and not value.strip():
            raise ValueError("must not be empty")
        return value


def traces_wanted() -> bool:
    """Return whether the standard `OTEL_*` variables ask for traces; OpenTelemetry's SDK reads all others itself.

    Raises:
        ValueError: they name an exporter or a protocol that the service does not have.
    """
    read = {name: value.strip() for name, value in os.environ.items() if name.startswith("OTEL_") and value.strip()}
    base, traces = "OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_"
    named = base + "ENDPOINT" in read or traces + "ENDPOINT" in read
    exporter = read.get("OTEL_TRACES_EXPORTER", "otlp" if named else "none")
    if exporter == "none" or read.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if exporter != "otlp":
        raise ValueError("OTEL_TRACES_EXPORTER can only be `otlp` or `none`")
    if read.get(traces + "PROTOCOL", read.get(base + "PROTOCOL", "http/protobuf")) != "http/protobuf":
        raise ValueError("OTEL_EXPORTER_OTLP_PROTOCOL can only be `http/protobuf`")
    return True
