"""The files of deploy/: schemas, references, variables that the service reads, and a real nginx with our configuration."""

import os
import re
import shutil
import ssl
import subprocess
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import yaml
from test_metrics import free_port, wait_for

from llmguide.enterprise.configuration import ServiceSettings
from llmguide.enterprise.encryption import KeyRing
from llmguide.settings import Settings

DEPLOY = Path(__file__).parents[1] / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yml"))
KNOWN = {f"LLMGUIDE_{name.upper()}" for name in (*ServiceSettings.model_fields, *Settings.model_fields)} | {"LLMGUIDE_SECRET_KEYS"}


def resources():
    """Every resource of the Kubernetes manifests, with its file's name."""
    return [(file.name, one) for file in MANIFESTS for one in yaml.safe_load_all(file.read_text(encoding="utf-8"))]


def of_kind(kind):
    return [one for _, one in resources() if one["kind"] == kind]


def compose():
    return yaml.safe_load((DEPLOY / "compose.yml").read_text(encoding="utf-8"))


def our_pods():
    """Pod templates of our own image."""
    pods = [one["spec"]["template"] for one in of_kind("Deployment")]
    return [pod for pod in pods if "llmguide:" in pod["spec"]["containers"][0]["image"]]


# --- variables and secrets

@pytest.mark.parametrize("file", ["compose.yml", "Dockerfile", "kubernetes/web.yml", "kubernetes/canary.yml", "kubernetes/shadow.yml"])
def test_every_variable_is_one_that_the_service_reads(file):
    found = set(re.findall(r"\bLLMGUIDE_[A-Z_]+\b", (DEPLOY / file).read_text(encoding="utf-8")))
    assert found and {name.removesuffix("_FILE") for name in found} <= KNOWN, found - KNOWN


def test_values_are_accepted_by_the_service():
    settings = [one["data"] for one in of_kind("ConfigMap")] + [compose()["services"]["service"]["environment"]]
    for values in settings:
        plain = {name.removeprefix("LLMGUIDE_").lower(): re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in values.items()}
        ServiceSettings(**{name: value for name, value in plain.items() if value and not name.endswith("_file")})


def test_no_secret_is_written_down():
    for file in [one for one in DEPLOY.rglob("*") if one.is_file()]:
        for line in file.read_text(encoding="utf-8").splitlines():
            written = re.search(r"(?i)(password|secret|api_key|token)\w*[\"']?\s*[:=]\s*[\"']?([^\s\"'{$\[]{6,})", line)
            assert not written or re.search(r"secrets?/|FILE|secretName|Name: |fail", line), (file.name, line)
    for pod in our_pods():
        for entry in pod["spec"]["containers"][0]["env"]: assert "secretKeyRef" in entry["valueFrom"]


def test_the_entrypoint_reads_addresses_from_files(tmp_path):
    (tmp_path / "address").write_text("postgresql://a:p w'\"$x@host/db\n")
    environment = {"PATH": os.environ["PATH"], "LLMGUIDE_DATABASE_URL_FILE": str(tmp_path / "address")}
    show = [str(DEPLOY / "entrypoint.sh"), "sh", "-c", 'printf %s "$LLMGUIDE_DATABASE_URL"']
    assert subprocess.run(show, env=environment, capture_output=True, text=True, check=True).stdout == "postgresql://a:p w'\"$x@host/db"
    environment["LLMGUIDE_DATABASE_URL_FILE"] = str(tmp_path / "missing")
    assert subprocess.run(show, env=environment, capture_output=True).returncode != 0


def test_the_key_that_the_readme_makes_is_one(tmp_path, monkeypatch):
    openssl = shutil.which("openssl") or pytest.skip("no openssl here")
    assert "openssl rand -base64 32 > secrets/encryption_keys" in (DEPLOY / "README.md").read_text(encoding="utf-8")
    (tmp_path / "keys").write_bytes(subprocess.run([openssl, "rand", "-base64", "32"], capture_output=True, check=True).stdout)
    monkeypatch.setenv("LLMGUIDE_SECRET_KEYS", str(tmp_path / "keys"))
    assert len(KeyRing.from_settings().ids) == 1


# --- compose and the image

def test_files_that_compose_mounts_exist():
    for name, service in compose()["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./") and not source.startswith("./secrets/"): assert (DEPLOY / source).is_file(), (name, source)
            if not source.startswith("."): assert source in compose()["volumes"], (name, source)


def test_secrets_and_dependencies_of_compose_are_defined():
    whole = compose()
    for name, service in whole["services"].items():
        assert set(service.get("secrets", [])) <= set(whole["secrets"]), name
        assert set(service.get("depends_on", {})) <= set(whole["services"]), name
        for needed, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy" and needed != "service": assert "healthcheck" in whole["services"][needed]
    example = {line.split("=")[0] for line in (DEPLOY / "env.example").read_text().splitlines() if "=" in line and line[0] != "#"}
    assert set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yml").read_text())) == example


def test_only_nginx_is_reachable_from_outside():
    for name, service in compose()["services"].items():
        for port in service.get("ports", []): assert name == "nginx" or port.startswith("127.0.0.1:"), (name, port)


def test_every_image_has_a_version():
    images = [service["image"] for service in compose()["services"].values()]
    images += [one["spec"]["template"]["spec"]["containers"][0]["image"] for one in of_kind("Deployment")]
    for image in images: assert re.search(r":.*\d", image) and not image.endswith("latest"), image


def test_the_image_runs_without_rights_and_says_how_it_is():
    text = (DEPLOY / "Dockerfile").read_text()
    assert text.count("FROM ") == 2 and "HEALTHCHECK" in text
    user = text.rindex("USER ")
    assert text[user:].startswith("USER 10001") and user < text.index("ENTRYPOINT")
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.M) for word in line.split()[:-1]]
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for name in copied:
        assert (DEPLOY.parent / name).exists(), name
        assert f"!{name.removeprefix('./')}" in allowed, name


# --- Kubernetes

@pytest.mark.parametrize("file, one", resources(), ids=lambda value: value if isinstance(value, str) else value["kind"])
def test_manifests_follow_the_schemas_of_kubernetes(file, one):
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    validator.validate(one, "1.34", strict=True)
    with pytest.raises(validator.ValidationError): validator.validate({**one, "metadata": 5}, "1.34", strict=True)


def test_pods_are_careful_and_say_how_they_are():
    assert len(our_pods()) == 3
    for pod in our_pods():
        container, whole = pod["spec"]["containers"][0], pod["spec"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        assert container["securityContext"]["readOnlyRootFilesystem"] and not container["securityContext"]["allowPrivilegeEscalation"]
        assert whole["securityContext"]["runAsNonRoot"] and not whole["automountServiceAccountToken"]
        assert {"requests", "limits"} <= set(container["resources"])


def test_references_between_manifests_hold():
    names = {(one["kind"], one["metadata"]["name"]) for _, one in resources()}
    for pod in our_pods():
        assert ("ConfigMap", pod["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"]) in names
        assert ("PersistentVolumeClaim", pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]) in names
    assert ("Deployment", of_kind("HorizontalPodAutoscaler")[0]["spec"]["scaleTargetRef"]["name"]) in names
    for service in of_kind("Service"):
        wanted = service["spec"]["selector"].items()
        assert any(wanted <= pod["spec"]["template"]["metadata"]["labels"].items() for pod in of_kind("Deployment")), service["metadata"]


def test_canary_is_behind_the_real_service_and_the_shadow_is_not():
    selector = next(one for one in of_kind("Service") if one["metadata"]["name"] == "web")["spec"]["selector"].items()
    tracks = {pod["metadata"]["labels"]["track"]: selector <= pod["metadata"]["labels"].items() for pod in our_pods()}
    assert tracks == {"stable": True, "canary": True, "next": False}
    shadow = next(pod for pod in our_pods() if pod["metadata"]["labels"]["track"] == "next")["spec"]["containers"][0]
    stable = next(pod for pod in our_pods() if pod["metadata"]["labels"]["track"] == "stable")["spec"]["containers"][0]
    assert shadow["env"] != stable["env"] and shadow["envFrom"] != stable["envFrom"]  # another database, another store


# --- nginx

class Answers(BaseHTTPRequestHandler):
    """A small server that tells which headers reached it."""

    def do_GET(self):
        content = repr(dict(self.headers)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *_): pass


@pytest.fixture(scope="module")
def nginx(tmp_path_factory):
    """Address and log of a real nginx with our configuration, its ports and paths changed."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx") or pytest.skip("no nginx here: apt install nginx")
    openssl = shutil.which("openssl") or pytest.skip("no openssl here")
    folder, plain, secure = tmp_path_factory.mktemp("nginx"), free_port(), free_port()
    subprocess.run([openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
                    "-subj", "/CN=localhost", "-keyout", folder / "tls.key", "-out", folder / "tls.crt"], check=True, capture_output=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    text = (DEPLOY / "nginx" / "nginx.conf").read_text()
    for old, new in {"service:8000": f"127.0.0.1:{server.server_port}", "listen 80;": f"listen 127.0.0.1:{plain};",
                     "listen 443 ssl;": f"listen 127.0.0.1:{secure} ssl;", "/etc/nginx/tls": str(folder), "/dev/stdout": f"{folder}/log",
                     "/dev/stderr": f"{folder}/errors", "/tmp/nginx.pid": f"{folder}/pid"}.items():
        assert old in text, old
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(text)
    checked = subprocess.run([program, "-t", "-c", folder / "nginx.conf"], capture_output=True, text=True)
    assert checked.returncode == 0 and "warn" not in checked.stderr, checked.stderr
    process = subprocess.Popen([program, "-c", folder / "nginx.conf", "-g", "daemon off;"], stderr=subprocess.DEVNULL)
    ask = partial(httpx.request, verify=False, headers={"X-Request-ID": "made-up-by-the-caller"})
    wait_for(lambda: ask("GET", f"https://127.0.0.1:{secure}/").status_code == 200, 5)
    yield ask, f"https://127.0.0.1:{secure}", f"http://127.0.0.1:{plain}", folder / "log"
    process.terminate()
    process.wait()
    server.shutdown()


def test_nginx_speaks_tls_1_3_and_nothing_older(nginx):
    ask, secure, plain, _ = nginx
    old = ssl.create_default_context()
    old.check_hostname, old.verify_mode, old.maximum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_2
    with pytest.raises(httpx.ConnectError): httpx.get(secure, verify=old)
    moved = ask("GET", f"{plain}/api/me")
    assert moved.status_code == 308 and moved.headers["location"].startswith("https://")
    assert "max-age" in ask("GET", secure).headers["strict-transport-security"]


def test_nginx_keeps_metrics_inside_and_large_bodies_out(nginx):
    ask, secure, _, _ = nginx
    assert ask("GET", f"{secure}/metrics").status_code == 404
    assert ask("POST", f"{secure}/api/documents", content=b"x" * 64_000_000).status_code == 413


def test_nginx_makes_the_request_id_and_logs_no_contents(nginx):
    ask, secure, _, log = nginx
    seen = ask("GET", f"{secure}/api/passage?source=my+secret+diary").text
    assert "made-up-by-the-caller" not in seen and re.search(r"'X-Request-ID': '[0-9a-f]{32}'", seen)
    line = wait_for(lambda: log.exists() and log.read_text().strip().splitlines(), 3)[-1]
    assert re.search(r"'X-Request-ID': '(\w+)'", seen)[1] in log.read_text() and "diary" not in line
