# The command line and the server on CPUs, as a user without rights, below 1.5 GB:
#
#     docker build -t delf-engine .
#     docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" delf-engine verify a.jpg b.jpg
#
# Serving: docs/howto/serve.md. No HEALTHCHECK, as most containers answer one command; ask /readyz.
FROM python:3.11-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends binutils
RUN python -m venv --without-pip /opt/delf-engine
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/delf-engine/bin:$PATH
# First and alone: this layer stays when the package changes.
RUN /usr/local/bin/python -m pip --python /opt/delf-engine/bin/python install --no-compile torch \
    --index-url https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY delf_engine delf_engine
# OpenCV without windows, which need libraries of a desktop; tests, headers and symbols nobody runs.
RUN pip="/usr/local/bin/python -m pip --python /opt/delf-engine/bin/python" \
    && $pip install --no-compile ".[serve]" \
    && $pip uninstall --yes opencv-python \
    && $pip install --no-compile --no-deps opencv-python-headless \
    && cd /opt/delf-engine/lib/python3.11/site-packages \
    && rm -rf torch/include torch/test torch/bin/*test* torch/bin/*Test torch/bin/protoc* \
    && find . -type d -name tests -prune -exec rm -rf {} + \
    && strip --strip-unneeded torch/lib/*.so llvmlite/binding/*.so
# Proves that it runs; leaves the bytecode of the modules that are used, and numba's kernels for this processor. On
# another one they are compiled anew, by whichever user runs the image.
ENV NUMBA_CACHE_DIR=/opt/delf-engine/numba
RUN delf-engine demo --out /tmp/demo && chmod -R a+rwX "$NUMBA_CACHE_DIR"

FROM python:3.11-slim
# /data is the user's: so is a new volume that is mounted there.
RUN useradd --create-home --uid 1000 delf && install --directory --owner delf --group delf /data
COPY --from=build /opt/delf-engine /opt/delf-engine
ENV PATH=/opt/delf-engine/bin:$PATH NUMBA_CACHE_DIR=/opt/delf-engine/numba MPLCONFIGDIR=/tmp/matplotlib
USER delf
WORKDIR /data
EXPOSE 8000
ENTRYPOINT ["delf-engine"]
CMD ["--help"]
