# The MLflow server of deploy/compose.yaml: MLflow with drivers for PostgreSQL and S3.
#
# Change before use: nothing. Compose builds it; by hand, from the root of the repository:
#   docker build -t amn-mlflow:3.17.2 -f deploy/mlflow.Dockerfile .

FROM python:3.11-slim-bookworm
# requirements.txt as constraints: the server runs the versions that the clients are tested with.
COPY requirements.txt /tmp/requirements.txt
RUN python -m pip install --no-cache-dir --constraint /tmp/requirements.txt \
        mlflow==3.17.2 psycopg2-binary==2.9.13 boto3==1.44.8 \
 && useradd --uid 1000 --create-home mlflow
WORKDIR /home/mlflow
# No usage data goes to MLflow's makers.
ENV PYTHONUNBUFFERED=1 \
    MLFLOW_DISABLE_TELEMETRY=true
# As a number, for Kubernetes' runAsNonRoot.
USER 1000:1000
EXPOSE 5000
CMD ["mlflow", "server", "--help"]
