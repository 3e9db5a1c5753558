"""Perl's Mail::DKIM as a judge of signatures, with TXT records handed to it instead of DNS."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping

from tests.peers.process import program

_JUDGE = r"""
use strict; use warnings; use JSON::PP; use Mail::DKIM::Verifier; use Mail::DKIM::DNS;
use Net::DNS::RR;
my $records = decode_json($ENV{RECORDS});
{ no warnings 'redefine';
  *Mail::DKIM::DNS::query = sub {
    my ($name, $type) = @_;
    my $text = $type eq 'TXT' ? $records->{lc $name} : undef;
    $@ = defined $text ? 'NOERROR' : 'NXDOMAIN';
    return defined $text ? (Net::DNS::RR->new(
      name => $name, type => 'TXT', txtdata => [unpack('(a255)*', $text)])) : ();
  };
}
binmode STDIN; local $/;
my $judge = Mail::DKIM::Verifier->new(Strict => 0);
$judge->PRINT(<STDIN>); $judge->CLOSE;
print encode_json([map { { domain => $_->domain, selector => $_->selector,
  algorithm => $_->algorithm, result => $_->result_detail } } $judge->signatures]);
"""


def verify(message: bytes, records: Mapping[str, str]) -> list[dict[str, str]]:
    """Domain, selector, algorithm and result ("pass", or why not) of every signature.

    `records` are TXT records by name, such as s1._domainkey.example.net.
    """
    command = [program("perl", "libmail-dkim-perl"), "-e", _JUDGE]
    lower = {name.lower(): text for name, text in records.items()}
    done = subprocess.run(
        command, input=message, capture_output=True, timeout=60, check=False,
        env={"PATH": "/usr/bin:/bin", "RECORDS": json.dumps(lower)},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace"))
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found
