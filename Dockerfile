# The core's one image: every process of it is a command (`python -m agents`, `python -m web`, ...).
# syntax=docker/dockerfile:1

FROM python:3.13-slim-trixie AS packages
ENV UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 VIRTUAL_ENV=/opt/core
WORKDIR /src
COPY requirements.lock pyproject.toml ./
# The installer comes from the lock, too. What is installed is what the lock says, checked by hash: the
# project's own requirements choose the packages, the lock their versions.
RUN awk '/^[^ ]/ { wanted = /^uv==/ } wanted' requirements.lock > uv.lock \
    && pip install --no-cache-dir --require-hashes --no-deps --requirement uv.lock \
    && python -m venv --without-pip "$VIRTUAL_ENV" \
    && uv pip install --constraints requirements.lock --requirement pyproject.toml
COPY . .
RUN uv pip install --constraints requirements.lock hatchling \
    && uv pip install --no-deps --no-build-isolation . \
    && uv pip uninstall hatchling pathspec pluggy trove-classifiers tomlkit

FROM python:3.13-slim-trixie
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin core \
    && install --directory --owner 10001 /invoices /archive
COPY --from=packages /opt/core /opt/core
ENV PATH=/opt/core/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /opt/core
CMD ["python", "-m", "web", "--port", "8080"]
