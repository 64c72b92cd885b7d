# atomslim on the CPU:  docker build -t atomslim .  and  docker run --rm -v "$PWD:/work" atomslim info mini
# For a GPU, leave TORCH empty, so that pip takes torch with CUDA:  docker build --build-arg TORCH= -t atomslim-gpu .
FROM python:3.12-slim

ARG TORCH=https://download.pytorch.org/whl/cpu
# g++ compiles packages (`atomslim package`)
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN PIP_EXTRA_INDEX_URL=$TORCH pip install --no-cache-dir -c constraints.txt '.[data,validate,parquet]'
RUN useradd --create-home user
USER user
WORKDIR /work
ENTRYPOINT ["atomslim"]
