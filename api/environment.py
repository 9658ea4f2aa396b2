"""What the processes of ``symadj serve`` get of its environment: what each is known to need, and nothing else.

The shell that a service is started from often has secrets that are no business of a training run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

__all__ = ["for_api", "for_dispatcher", "for_ray"]

_PROXIES = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FTP_PROXY"}
_OF_ALL = _PROXIES | {name.lower() for name in _PROXIES}
_OF_ALL |= {"HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER"}
_OF_ALL |= {"CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE", "VIRTUAL_ENV"}
# The last ones are of the libraries that read buckets, by which all parts reach the jobs' files.
_BEGINNINGS_OF_ALL = ("LC_", "PYTHON", "XDG_", "AWS_", "AZURE_", "FSSPEC_", "GOOGLE_", "GCSFS_")
# What the libraries of a training and of its accelerators read.
_BEGINNINGS_OF_RAY = (
    *("RAY_", "TORCH", "PYTORCH_", "TRITON_", "OMP_", "KMP_", "MKL_", "OPENBLAS_", "GLOO_", "MPL"),
    *("CUDA_", "NVIDIA_", "NCCL_", "CUBLAS_", "CUDNN_", "HIP_", "HSA_", "ROCR_", "RCCL_", "MIOPEN_", "PJRT_"),
)
_OF_API_ALONE = {"SYMADJ_KEY_SECRET", "SYMADJ_KEY_SECRET_FILE"}


def for_api(environment: Mapping[str, str], more: Collection[str] = ()) -> dict[str, str]:
    """Return what the API gets, with the settings of the service. ``more`` are names that the user wants passed on."""
    return _select(environment, more, ("SYMADJ_",))


def for_dispatcher(environment: Mapping[str, str], more: Collection[str] = ()) -> dict[str, str]:
    """Return what the dispatcher gets: it looks at nobody's API key."""
    return {name: value for name, value in for_api(environment, more).items() if name not in _OF_API_ALONE}


def for_ray(environment: Mapping[str, str], more: Collection[str] = ()) -> dict[str, str]:
    """Return what Ray and the runs on it get: none of the service's settings."""
    return _select(environment, more, _BEGINNINGS_OF_RAY)


def _select(environment: Mapping[str, str], more: Collection[str], beginnings: tuple[str, ...]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name in _OF_ALL or name in more or name.startswith((*_BEGINNINGS_OF_ALL, *beginnings))
    }
