"""Every stable error code: what it means, and what to do. The one registry; ``docs/errors.md`` is printed from it.

Owns the texts that explain a code; the message of an error names the object and the case. It never makes an error, and a code
once given keeps its meaning: retire it rather than use it for something else. ``python -m muster_core.codes`` prints the page.
"""
# ruff: noqa: E501 - one code, one line

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NamedTuple

LETTERS: Mapping[str, str] = {
    "V": "Validation",
    "G": "Git",
    "T": "Trust",
    "S": "Secrets",
    "P": "Policy",
    "K": "Kubernetes, and what the programs keep on disk",
    "R": "Rollout",
    "L": "Link",
    "J": "Joining",
}


class Code(NamedTuple):
    """``meaning`` is one sentence; ``remedy`` is what the reader does next."""

    meaning: str
    remedy: str


# code | what it means | what to do
_TABLE = """
V001 | A file is not the YAML that Muster reads: bad syntax, a duplicate key, an alias bomb, or too large. | Mend the file at the line that is named.
V002 | A field of a Muster kind is unknown, missing or of the wrong form. | Mend the field at the line that is named; `muster schema KIND` prints what is allowed.
V003 | There is no such kind. | Write one of the kinds that the message lists.
V004 | A bundle names a secret file that is not in the repository. | Correct `spec.secrets`, or seal the secret to that path.
V005 | `muster init` found a fleet there already, and overwrites nothing. | Use another folder.
V006 | The fleet repository cannot be used at this commit. | Run `muster validate .` in a checkout and mend what it lists.
V007 | `fleet.yaml` has no such site class. | Use one that is known, or add it to `spec.siteClasses`.
V008 | A command was told to change nothing. | Name what is to change: `muster cluster label --help` lists it.
V009 | A file or folder cannot be read or written. | Check its path and its permissions.
V020 | A Kubernetes object lacks a field that identifies it. | Give it `apiVersion`, `kind` and `metadata.name`.
V021 | A file that something refers to does not exist. | Correct the path or add the file.
V022 | A path leads out of the bundle's source, its includes or the repository. | Add the folder to `spec.source.include`, or correct the path.
V023 | A substitution names a label or value that this cluster's registry entry lacks. | Add it to the entry, or give a default.
V024 | A manifest uses a name that has no value. | Set it in `targets[].values` or `substitute`, or write a default: `${NAME:=x}`.
V025 | A symbolic link or a submodule stands where a file is expected; neither is followed. | Put the file itself there, or name its folder in `source.include`.
V026 | A folder holds more files than a fleet repository may. | Validate the fleet repository itself, not a folder above it.
V030 | Encoded bytes are not whole, or a part of this program's own files is missing. | Ask for the data anew; if a packaged file is named, install `muster-fleet[all]`.
V031 | This is no duration. | Write it like `30s`, `10m` or `1h30m`.
V032 | A text is no selector, no time, or gives no cluster name. | Write a selector like `tier=store,region in (eu)`, a time like `2027-01-31T12:00:00Z`, or pass `--cluster NAME`.
V033 | Two contexts of a kubeconfig make one cluster name. | Install them one by one with `--cluster NAME`.
V040 | A program that renders the bundle failed or did not end in time. | Run the same build in a checkout; the message has the end of its output.
V041 | Rendering produced more than a bundle may hold. | Split the bundle.
V042 | The folder to be built has no kustomization file. | Correct `spec.render.kustomize.path`.
V043 | The bundle needs kustomize, and this agent has none. | Install the binary on PATH, or pass `--kustomize PATH`.
V044 | The kustomization uses something that the sandbox does not support, such as plugins. | Remove it from the kustomization.
V045 | The kustomization refers to something remote; rendering has no network. | Copy it into the repository.
V046 | A document in the manifests is no Kubernetes object. | Remove it from the source, or give it `apiVersion` and `kind`.
V047 | The kustomization names a file or folder that is not there. | Correct the path, or add its folder to `source.include`.
V050 | The bundle of an offer is not usable at its commit. | Run `muster validate .` at that commit and mend what it lists.
V051 | The agent has not accepted any policies yet, so it admits nothing. | Wait for its first look at Git; if it stays, its log says why the head is refused.
V060 | An entry does not fit the audit log: an unknown action, result or detail, or one that is too long. | Report it: a program tried to write what the log must not hold.
V061 | A line of an audit log is not as it was written. | Treat the log as changed from there on: keep a copy, and compare it with the last checkpoint.
V062 | The folder holds the audit log of another writer. | Give every cluster and every coordinator a folder of its own.
V063 | The audit log cannot be written, and too much waits for it. | Free space on the disk, or mend its permissions.
V064 | A token issuer's address is no https URL. | Pass the issuer's https URL.
V065 | An operator cannot be given a certificate under this name or with this role. | Use 1 to 128 letters, digits and ._@+-, and one of viewer, operator, approver, admin.
V066 | This is no checkpoint of audit logs. | Take it for changed: find out who put it into the registry branch.
V070 | A window's cron expression cannot be used. | Write minute, hour, day of the month, month and weekday: `0 1 * * *`.
V071 | There is no such time zone. | Write an IANA name like `Europe/Berlin`, or `UTC`.
V072 | A window never opens. | Correct its cron expression: no month has such a day.
V073 | A window is open for too short or too long a time. | Write a duration from `1m` to `366d`.

G001 | This is no URL of a repository. | Write `https://…`, `ssh://…` or `file://…`.
G002 | The repository cannot be fetched. | Check the address, the credentials and the network; the last good state stays, and it is tried again.
G003 | The repository has no such branch. | Push the branch, or name the right one.
G010 | A commit has no such regular file, or it is too large. | Correct the path that refers to it.
G011 | The checkout has no remote named `origin`. | Clone the fleet repository, or `git remote add origin URL`.
G012 | The checkout is on no branch. | `git switch main`
G013 | Others kept pushing to the registry branch at the same moment. | Try again.
G014 | Git could not do what was asked of the remote or the local repository; the message has its words. | Mend what Git names, and try again.
G015 | This is no checkout of a fleet repository, or a repository lacks the commit or its history. | Run it inside a clone, or pass `--checkout PATH`; an agent fetches again by itself.
G016 | The checkout has no commit yet, or a commit has too many files. | Commit first; or make the repository smaller.
G017 | What is checked out is not on the remote yet, or a commit has a path that cannot be used. | `git push` and try again; or rename the path.
G018 | The repository gave other bytes than the object's id says. | Do not trust this Git host: check its disk, and who can write to it.
G019 | An object of the commit is not in the repository. | It is fetched again; if it stays, run `git fsck` on the Git host.

T001 | The join fixed a mode that this agent does not know, so it takes nothing. | Update the agent.
T002 | The trust document that the join token names was not found. | Push it at `trust/<N>.json` of the fleet repository.
T010 | The commit is not on the tracked branch. | Merge it into the branch; only then can it be rolled out.
T011 | The commit does not descend from the anchor of the join. | The history was rewritten, or this is another repository: join again if that is meant.
T012 | The commit does not descend from one that was accepted before: the branch was forced back. | Revert with a new commit instead; the last good state stays.
T013 | The commit is not in the repository. | Push it; the agent fetches and tries again.
T014 | The Git host gave a history with a gap. | Check the Git host; the last good state stays.
T015 | This cluster had accepted a newer commit before its state was lost or restored. | If that is known, acknowledge it as an operator; nothing new is taken before.
T016 | No head of the fleet's branch was accepted yet, so no release is taken. | Wait for the agent's next look at Git; if it stays, its log says why the head is refused.
T020 | The registry has no entry for this cluster. | `muster cluster approve NAME`
T021 | The registry's entry of this name has another identity. | Find out who holds the name before anything else; then approve the right cluster anew.
T022 | The bundle does not target this cluster by the cluster's own registry entry. | Compare `spec.targets` with the labels of the entry.
T023 | The registry entry that the agent sees is not the one that was offered. | It usually settles with the next fetch; if not, compare what both read from the registry branch.
T024 | The registry says that this cluster is revoked. | Approve it anew, if that was a mistake.
T030 | The commit's tree is not the one that was offered. | Treat the offer as forged or the programs as of different versions; nothing was applied.
T040 | A head is not signed. | Sign it: `git commit -S`.
T041 | A head is signed by a key that the trust document does not name. | Have a named key sign, or have the root keys add this one.
T042 | A path was changed under a signature whose role does not cover it. | Have somebody sign the head whose role covers the path.
T043 | The registry was changed by a key that may not do that. | Have a registrar that manages entries sign it.
T044 | A tag's own name or target is not that of its ref. | Delete the tag and make it anew; find out who moved it.
T045 | The signature is of a kind that is not supported. | Sign with SSH or OpenPGP.
T050 | A Git object is not formed as Git writes it, so its signature proves nothing. | Make it again with `git`.
T051 | This is no public key that can be used. | Give one line of a `.pub` file, or an OpenPGP key as the trust document writes it.
T052 | An SSH signature does not hold. | Sign again with a current key.
T053 | A private key cannot sign here. | Give an ed25519, ECDSA or RSA key of `ssh-keygen`.
T054 | An OpenPGP signature does not hold. | Sign again with a current key, or bring its certificate in the trust document up to date.
T055 | OpenPGP signatures cannot be verified, because the library is not installed. | Install `muster-fleet[openpgp]`, or sign with an SSH key.
T056 | There is no key to sign with. | Make one with `ssh-keygen -t ed25519`, and pass `--key FILE`.
T057 | The checkout has no trust document that holds. | Make one, or have the missing root keys sign the one that waits.
T058 | There is a key of this fleet already. | Use it: `--key FILE`.
T059 | This is a key with which a forge signs for everybody. | Leave it out; or pass `--forge`, if it is meant.
T060 | This is no trust document. | Make it with `muster`, and change nothing in it by hand.
T061 | A trust document has fewer signatures than its roots ask for. | Have the missing root keys sign.
T062 | A trust document's version does not follow the one before. | Push every version in between, or make the next one from the newest.
T063 | The trust document is another fleet's. | Use the document of this fleet.
T064 | The first trust document is not the one that the join token names. | Make a new token from a checkout that you trust.
T065 | The trust document has expired. | Sign the next version; what runs is kept and healed meanwhile.
T070 | These bytes are no directive. | Make a new one: it was cut or changed on its way.
T071 | The directive is not signed by an operator of the trust document. | Have one sign who may.
T072 | The signer may not direct this bundle on this cluster. | Have an operator sign whose scope covers both.
T073 | The directive is another fleet's. | Sign one for this fleet.
T074 | The directive does not name this cluster. | Sign a new one that has it, or let late joiners in.
T075 | The directive has expired. | Renew it: `muster directive renew`.
T076 | The directive is older than one that was taken, or does not follow it. | Sign a new one on top of the newest; an old one was replayed.
T077 | The directive names another plan than the commit has. | Sign one for this commit.
T078 | The fleet's mode asks for a directive, and the offer carries none. | Have an operator sign one.
T079 | The directive is for another release. | Sign one for the release that is to be rolled out.
T081 | A cluster that went back from a release was offered it again under the same attempt. | Retry the rollout, or mend the release with a new commit.
T082 | A cluster went back from a release too often within a day, and takes it no more today. | Mend the release with a new commit.
T083 | The clusters of a rollout are not those that its directive was signed for. | Sign a new directive over the clusters of now.
T089 | The coordinator asks to renew a release, and shows no directive by which an operator rolled it out. | Roll out what you have checked out: `muster rollout start BUNDLE`.
T090 | An audit log went back: its newest entry is older than one that was told before. | Find out whether an old volume was restored or a second agent runs; then acknowledge it: muster audit acknowledge.
T091 | An audit log has another entry than was told before. | Find out whether an old volume was restored or a second agent runs; then acknowledge it: muster audit acknowledge.
T092 | The site has a veto on the bundle. | Whoever runs the site takes it back in the registry: `muster cluster label NAME --no-veto BUNDLE`.
T093 | This cluster does not go back to what it was offered. | Sign a directive with `returnTo`, or revert in Git and roll that out.

S001 | The secret is not sealed to a key of this cluster. | Seal it anew for the clusters of its selector: `muster secret seal`.
S002 | A secret file, or a part of it, was changed or moved after it was sealed. | Restore the file from Git, or seal it anew; find out who changed it.
S010 | A recipient line does not open with this sealing key. | Seal the secret anew.
S011 | This is no usable X25519 public key. | Take the key that the agent logged when it joined.
S012 | This is no public key. | Write `ed25519:<hex>` or `x25519:<hex>`.
S013 | A value of a secret file is not base64. | Restore the file from Git, or seal it anew.
S014 | An entry's name has characters that a Secret cannot hold. | Use letters, digits, `-`, `_` and `.`.
S015 | Nobody could open this secret: its selector matches no cluster. | Correct the selector, or the `protectedLabels` in the registry.
S016 | A recipient line is not written as one. | Restore the file from Git, or seal it anew.
S017 | The registry has problems, so it is not known for whom to seal. | Mend the registry branch first.
S018 | A registry entry has no sealing key. | Approve the cluster anew.
S019 | The sealing key in the registry is not signed by the cluster's identity key. | Do not seal to it: somebody may have put their own key there.
S030 | The version of a secret that was applied here cannot be found in the history any more. | Seal the secret anew; the live one stays meanwhile.
S031 | The file to seal holds another secret than the one that is named. | Write another file: `--out PATH`.

P001 | A policy forbids an object, or could not be judged; the whole bundle is blocked and nothing was applied. | Change the object, or the policy.
P010 | A policy is malformed, or stands twice. | Mend it at the line that is named.
P011 | A policy is of a kind or uses a feature that is not supported. | Write it with what the message lists.
P012 | The fleet's Pod Security settings are no level or no version. | Write `privileged`, `baseline` or `restricted`, and `latest` or `v1.N`.

K001 | The API server does not answer, or fails. | Check the API server; it is tried again.
K002 | The API server asks to slow down. | Nothing: the agent waits as long as it was told.
K003 | The agent may not do this. | Grant it to the agent's service account.
K004 | The cluster has no such kind. | Deliver its CustomResourceDefinition first, in this bundle or another.
K005 | Another manager owns fields of the object. | Take the field out of the bundle, or let the other manager give it up.
K006 | A field of the object cannot be changed. | Give the object a new name, or delete it by hand.
K007 | The API server finds the object invalid. | Mend the field that the message names.
K008 | What was read is too old for the API server to go on from. | Nothing: the agent lists anew.
K009 | The object or its namespace is not there. | Deliver the namespace with the bundle, or make it.
K010 | The API server refused; the message has its words. | Do what the message says.
K011 | There is no way into the cluster. | Pass `--kubeconfig FILE`, or run as a pod with a service account.
K012 | The cluster has no namespace `kube-system`, by which it is known. | Check that the kubeconfig leads to a Kubernetes cluster and may read it.
K013 | The bundle has an object twice. | Remove one of them.
K014 | An object of this name belongs to somebody else, and is left alone. | Rename yours, or delete the other by hand.
K020 | A record of the agent's state cannot be read. | Restore it, or remove it: the agent then starts from its anchor and says so.
K021 | Another agent uses this state folder. | Give each agent a folder of its own.
K022 | The state folder cannot be written (a full disk, say); nothing new is acted on meanwhile. | Make room, or mend the volume; the agent goes on by itself.
K030 | The audit log cannot be written. | Free space on the disk, or mend its permissions.
K050 | The kubeconfig cannot be read. | Pass `--kubeconfig FILE`.
K051 | This is no kubeconfig. | Pass one that `kubectl` can use.
K052 | The kubeconfig runs a program or reads a file for its credential, which cannot be used unattended. | Put a token or a client certificate into it, as text.
K053 | This system cannot hold a file in memory, and a credential is not written to a disk. | Run it on Linux.
K054 | The public keys that the agent published cannot be read. | Delete them: the agent writes them again when it starts.
K055 | The kubeconfig has no current context. | `kubectl config use-context NAME`, in that file.
K056 | The credential of a cluster is not there, or not yet. | Put it there; it is tried again.
K099 | The agent itself failed on a bundle; the others go on, and it is tried again. | Report the traceback of the agent's log; what runs stays.

R001 | The bundle targets no cluster. | Compare `spec.targets` with the registry.
R002 | Clusters of the bundle match no wave of its plan. | Add a wave with `rest: true`.
R003 | The log of a rollout does not begin with its start. | The database is damaged: restore a backup, or start with an empty one and let it be rebuilt.
R004 | The cluster is not in this rollout. | Nothing: membership is frozen at the start, and it gets the release as catch-up.
R005 | A rollout of this bundle still runs. | Wait, or `muster rollout abort NAME`.
R006 | There is no such plan. | Name one that the fleet repository has.
R007 | The bundle is not there, or cannot be used. | Run `muster validate .` and mend what it lists.
R008 | Only the newest commit of the tracked branch can be rolled out in this mode. | To go back, revert in Git.
R009 | This very release was rolled out already. | Pass `--again` to do it once more.
R010 | The rollout has ended. | Start another one: `muster rollout start`.
R011 | The rollout is paused already. | Nothing.
R012 | The rollout is not paused. | Nothing.
R013 | A wave has more failed or lost clusters than it allows. | Mend it with a new commit, and abort this rollout so that the next can start.
R014 | The rollout is stopping and offers nothing more. | Wait until it has ended.
R015 | No rollout was of the release that a directive names. | Name a release that was rolled out: `muster get rollouts`.
R016 | Neither the floor of this cluster nor what the coordinator knows of it went back, so there is nothing to acknowledge. | Nothing.
R017 | The fleet's mode asks for a directive, and none was signed for this release. | Sign one as an operator when you start the rollout.
R018 | Nobody waits for a release of this bundle, so there is no directive to renew. | `muster rollout owed`
R020 | A target did not become healthy within the plan's deadline. | `muster rollout explain ROLLOUT CLUSTER` says what was not ready.
R021 | A target became unhealthy too often while it soaked. | Read its message: `muster describe rollout NAME`.
R022 | A target did not acknowledge in time, and the plan says that absence is failure. | Bring the cluster into contact, or say `offline: {policy: owe}`.
R030 | A wave of the plan names clusters that the bundle does not target. | Take them out of the plan, or make the bundle target them.
R031 | No wave of the plan has a member. | Check the waves' selectors against the registry: `muster get clusters -o wide`.
R040 | Only a target that failed, returned or is lost can be tried again. | `muster describe rollout NAME` lists them.
R041 | Nothing failed and nothing is lost, so there is nothing to try again. | Nothing.
R042 | A target that has taken the release, or failed, cannot be skipped. | Try it again: `muster rollout retry`; or wait for it.
R043 | Promoting a wave needs a reason, which the log keeps. | Pass `--reason`.
R044 | The wave waits for nothing that promoting passes over. | `muster rollout explain` says what it waits for; gates need `muster rollout approve`.
R045 | The rollout waits for no approval now. | Approve when it asks: `muster rollout watch`.
R046 | This person may not approve or reject this wave: not named in the plan, its author, or approved already. | Ask one of those whom the message names.
R050 | A gate of the plan says nothing. | Run `muster validate .` and mend what it lists.
R051 | A wave is empty, because waves before it take all of its clusters. | Order the waves from the narrow ones to the wide ones, or take the wave out.
R052 | The plan expires before a wave could ever be offered anything. | Give `spec.expire` more time, or correct the wave's window or start time.
R053 | The time from which a release may be applied has passed, is past the end of its offers, or is not that of the rollout that runs. | Name another one with `--not-before`, or give offers more time (`--offers-for`, the plan's `spec.expire`).
R070 | A flag's text is no time that varies. | Write `90s`, or `90s..10m`: the median and the 99th percentile.
R080 | A server that a gate or a notification needs did not answer. | Check that it runs, and the way from the coordinator to it; it is asked again.
R081 | What a gate or a notification names is no http or https URL. | Write `https://…`.
R082 | There is a freeze of this name already. | Choose another name, or `muster freeze delete NAME`.
R083 | There is no such freeze, or it has ended. | `muster get freezes`
R084 | This is no freeze: its name, its end, its selector or a text of it. | It ends within a year; `muster freeze create NAME --until 8h -l tier=store`.

L001 | This needs an operator's credential. | Use the context file that `muster serve` wrote.
L002 | The address cannot be listened on. | Choose a free port, or end what uses it.
L010 | The CLI knows no coordinator, or cannot read its context. | Pass `--context DATA_DIR/context.json`.
L011 | The coordinator refused, without a code of its own. | Read the message; the coordinator's log has more.
L012 | The coordinator cannot be reached in time. | Check that it runs there, and that the context is of this coordinator.
L013 | The coordinator does not know this credential. | Use the context file that this coordinator wrote.
L020 | The coordinator refused the agent, without a code of its own. | Read the message; the coordinator's log has more.
L021 | The session ended. | Nothing: the agent comes back by itself.
L022 | The coordinator does not answer the agent. | Check that it runs, and the way from the cluster to its link address.
L023 | The coordinator did not greet in time. | Nothing at first: the agent tries again; if it stays, look at the coordinator's load.
L024 | What answered is no coordinator, or one of another version. | Check the link address.
L025 | The coordinator sent the agent away. | The message says why; the agent comes back when it was told to.
L030 | The database is of a version that this program does not read. | Start the program that wrote it, or a newer one; older databases are changed at the start, one version after the other.
L031 | The database cannot be read or written: a full disk, wrong permissions, or damage. | Make room, or mend the permissions; a damaged one: restore a backup, or move it away, and it is rebuilt from Git and agents' reports.
L032 | A row of the database is not what this program writes. | Start the program that wrote it, or restore a backup.
L040 | There is no such cluster. | `muster get clusters`
L041 | There is no such bundle. | `muster get bundles`
L042 | There is no such rollout. | `muster get rollouts`
L043 | The coordinator does not know this action. | Use a CLI of its version.
L044 | No certificate of this operator counts. | `muster operator list`
L045 | No alarm is open for this writer of an audit log. | `muster audit heads`
L046 | The coordinator's database is older than what an agent was told: a backup was restored, or a disk lost writes. No cluster goes back. | Find out why, and compare `muster get rollouts` with what clusters run; then `muster cluster acknowledge NAME`.
L050 | A session did not begin with a hello. | Use an agent of this program's version; nothing else speaks on this address.
L051 | The coordinator has not read the registry yet. | Nothing: it does so by itself; if it stays, `muster version` and its log say why.
L052 | The shared database cannot be reached, or the session that leads it is gone. | Check the server and the way to it; the coordinator ends, and started again it leads or waits as a standby.
L053 | This is no URL of a PostgreSQL database. | Write `postgresql://USER:PASSWORD@HOST:PORT/NAME`, best into a file for `--database-file`.
L054 | Another coordinator has taken the lead of the database. | Nothing: this one ends; started again it waits as a standby.
L055 | The data folder does not fit the shared database: another CA, or files that a standby needs are missing. | Copy `ca.crt`, `ca.key` and `admin-token` from the data folder of a coordinator that used it.
L056 | Another coordinator uses this data folder. | Stop it first, or give each a folder of its own.
L057 | This is no whole backup. | Nothing was changed: take another copy of the file, or an older backup.
L058 | There is no database or no `ca.key` to back up, or a restore would replace what is there. | Name the right folder or database; to replace what is there, pass `--overwrite`.
L059 | The backup is of a newer form than this program reads. | Restore it with the program that wrote it, or a newer one.
L060 | The credential does not hold. | Sign in again, and send one credential only.
L061 | The token is valid, but none of its groups has a role here. | An administrator maps a group to a role.
L062 | This needs a role that the caller does not have. | The message names the roles that may. Ask somebody who has one, or an admin for a certificate: `muster operator certificate`.
L063 | The token issuer cannot be reached, so its tokens cannot be judged. | Use the admin token or a client certificate meanwhile.
L064 | An operator's client certificate was revoked, has expired, or is not in this coordinator's books. | Have a new one made with muster operator certificate.
L065 | Another coordinator of the shared database has this name. | Pass another `--name`.
L066 | A backup is never written over a file. | Name another file.
L070 | The file of `muster serve --notify` is not as it has to be. | Read docs/notifications.md, which shows every field.
L071 | A file with notification settings, or one that they name, cannot be used. | Check its path and who may read it; a secret is one line of text.
L080 | The rollout that is watched has not ended in the time that was given. | Nothing: it goes on. Watch it again, or give a longer `--timeout`.
L081 | An action on a rollout names clusters where none belong, or not the one that it needs. | Use `muster rollout`, which asks for what each action takes.
L082 | There is nothing to take a bundle back from, or to. | Mend it with a new commit, or revert in Git; further back is signed: `muster rollout rollback --to --key`.
L083 | Going back to this release needs an operator's signature. | The message says what to sign; run it in your checkout.
L084 | A text of a call is too long, or has control characters in it. | Write a line of plain text.
L090 | A bundle that others depend on is not taken off their clusters under them. | Take it out of their `spec.dependsOn` first, or remove those first: `muster bundle remove NAME`.
L091 | The agent of a revoked cluster is heard no more, so nothing can be uninstalled there through it. | Forget the cluster and leave what runs there: `muster cluster remove NAME --orphan`; delete the rest with its own credential.
L092 | The cluster is being uninstalled, and has not said that it is done. | Wait for it: `muster cluster remove NAME --uninstall`. To forget it as it is now: `muster cluster remove NAME --orphan`.

J001 | This is no join token. | Copy it whole, or make a new one: `muster token create`.
J002 | A token lives between a second and seven days. | Ask for a time within that.
J003 | The coordinator does not know the token. | Make a new one: `muster token create`.
J004 | The token was used before. | Make a new one; if you did not use it, somebody else did: look at who asks to join.
J005 | The token has expired. | Make a new one: `muster token create`.
J006 | The token is for another cluster. | Make one for this cluster.
J007 | The join is not signed by the identity key that it names. | Do not approve it: it was changed on its way, or forged.
J008 | A token is for one cluster, and what was given is no name of one. | `muster token create --cluster NAME`, NAME in lower-case letters, digits and '-'.
J010 | The registry says that this cluster was revoked. | To let it come back: `muster cluster remove NAME`, then join it anew with new keys.
J011 | The checkout is of another fleet than the coordinator's. | Use a checkout of this fleet, or the context of the other coordinator.
J012 | Nobody asked to join under this name. | Start the cluster's agent with a token first.
J013 | The registry has this name with another identity. | If the cluster was rebuilt: `muster cluster remove NAME` first.
J014 | This cluster is registered under another name already. | Use that name, or remove that entry first.
J015 | The sealing key of a join is not signed by its identity key. | Do not approve: somebody between you and the agent may have changed it.
J016 | No cluster can reach an address that a token would carry. | `muster serve --advertise-link HOST:PORT --advertise-edge HOST:PORT`.
J017 | An operator has turned this join down. | Join with a new token and an empty state folder, or ask who turned it down.
J020 | The CA of the coordinator cannot be used. | Give a CA certificate with its own elliptic-curve key.
J021 | This is no certificate request that proves its key. | Start the agent anew; if it stays, something on the way changes what it sends.
J022 | A certificate lives between 10 seconds and 7 days. | Ask for a time within that.
J030 | The cluster is not in the registry. | `muster cluster approve NAME`
J031 | The registry has this name with another identity. | If the cluster was rebuilt: `muster cluster remove NAME`, then `muster cluster approve NAME`.
J032 | A renewal was seen twice: there may be two agents with one identity. | Find the other one; then `muster cluster remove NAME`, and approve the right one anew.
J040 | The agent has not joined yet and has no token. | Make one, and pass `--token-file FILE`.
J041 | The token is for another cluster than the agent was told. | Make one for this cluster.
J042 | The state folder belongs to another cluster. | Give this cluster a folder of its own.
J050 | The cluster did not join in time. | Look at the agent's log, then run the same again: it goes on where this ended.
J051 | What asks to join does not have the keys that the cluster itself shows. | It is not approved: somebody else may have asked with a stolen token.
J052 | The registry has this cluster with another identity key than its agent has. | If the agent lost its state, remove the entry from the registry first.
J070 | The cluster is being removed from the fleet, so it takes no release. | Nothing; to keep it, take `spec.removal` out of its registry entry.
J071 | A cluster that is to be uninstalled has not taken everything away yet. | Look at what is in its way: `muster describe cluster NAME`; then run the same again.
"""


def _read(table: str) -> dict[str, Code]:
    rows = [line.split(" | ") for line in table.splitlines() if line]
    found = {code: Code(meaning, remedy) for code, meaning, remedy in rows}
    if len(found) != len(rows):
        raise ValueError("a code stands twice in the table")
    return found


CODES: Mapping[str, Code] = _read(_TABLE)


def page() -> str:
    """``docs/errors.md``."""
    lines = [
        "# Errors",
        "",
        "Every error is one line: `MUSTER-<code> what happened: object. What to do.` A code keeps its meaning in all versions.",
        "This page is printed by `python -m muster_core.codes`; change the texts there.",
    ]
    for letter, title in LETTERS.items():
        lines += ["", f"## {letter}: {title}", "", "| code | what it means | what to do |", "|---|---|---|"]
        lines += [
            f"| MUSTER-{code} | {told.meaning} | {told.remedy} |"
            for code, told in sorted(CODES.items())
            if code.startswith(letter)
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
