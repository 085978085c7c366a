"""Varlink implementations that nobody here wrote judge the engine that the broker is made of."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import varlink
from certification import ORDER, Certification, Server
from varlink.tests import test_certification as judge

INTERFACES = ["org.varlink.service", "org.varlink.certification"]


@pytest.fixture(params=[65536, 1], ids=["at-once", "byte-by-byte"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Certification, str]]:
    certification = Certification()
    path = tmp_path / "c"
    with Server(path, certification.service, received_at_once=request.param):
        yield certification, f"unix:{path}"


def _run(*command: str) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_go_certifies_us(served):
    """The client of Debian's varlink-go goes through its whole test and finds nothing wrong."""
    certification, address = served
    output = _run("varlink-go-certification", "-client", "-varlink", address)
    assert "End: 'true'" in output
    assert certification.failures == []
    assert certification.certified == ["client-0"]


def test_python_certifies_us(served, capsys):
    """The client that PyPI's varlink certifies services with finds nothing wrong."""
    certification, address = served
    with varlink.Client.new_with_address(address) as client:
        judge.run_client(client)
    assert "Certification passed" in capsys.readouterr().out
    assert certification.failures == []
    assert certification.certified == ["client-0"]


def test_both_can_be_certified_at_once(served):
    """Connections do not mix, whoever is at the other end."""
    certification, address = served
    go = ["varlink-go-certification", "-client", "-varlink", address]
    python = [sys.executable, judge.__file__, "--client", f"--varlink={address}"]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for command in (go, python, go, python)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0, 0], outputs
    assert certification.failures == []
    assert len(certification.certified) == 4


def test_the_judge_is_strict(served):
    """The same server does tell a wrong value, order and client, so its silence means something."""
    certification, address = served
    with (
        varlink.Client.new_with_address(address) as client,
        client.open("org.varlink.certification") as connection,
    ):
        for wrong in (
            lambda name: connection.Test02(name, True),
            lambda name: connection.Test01("nobody"),
        ):
            name = connection.Start()["client_id"]
            with pytest.raises(varlink.VarlinkError):
                wrong(name)
        name = connection.Start()["client_id"]
        connection.Test01(name)
        with pytest.raises(varlink.VarlinkError) as raised:
            connection.Test02(name, False)
        assert raised.value.error() == "org.varlink.certification.CertificationError"
        assert raised.value.parameters()["wants"] == {
            "method": "Test02",
            "parameters": {"bool": True},
        }
    assert [text.split(":")[0] for text in certification.failures] == [
        "Test02 instead of Test01",
        "Test02 instead of Test02",
    ]


def test_python_reads_what_we_say_about_ourselves(served):
    """The other implementation's introspection works on ours, and it can parse what it gets."""
    _, address = served
    with varlink.Client.new_with_address(address) as client:
        assert client.get_interfaces() == INTERFACES
        assert client.info["vendor"] == "sockbroker"
        interface = client.get_interface("org.varlink.certification")
        assert set(interface.members) >= {"Start", *ORDER}


def test_python_understands_our_errors(served):
    """The engine's own errors arrive as what they are."""
    _, address = served
    with (
        varlink.Client.new_with_address(address) as client,
        client.open("org.varlink.certification") as connection,
        client.open_connection() as other,
    ):
        with pytest.raises(varlink.InvalidParameter) as invalid:
            connection.Test01()
        assert invalid.value.parameters() == {"parameter": "client_id"}
        with pytest.raises(varlink.VarlinkError) as expected_more:
            connection.Test10("client-0", {})
        assert expected_more.value.error() == "org.varlink.service.ExpectedMore"
        with pytest.raises(varlink.InterfaceNotFound) as not_found:
            client.get_interface("org.example.none", other)
        assert not_found.value.parameters() == {"interface": "org.example.none"}
