// Cilium's own policy engine, asked about whole clusters at once.
//
// One line of JSON on standard input is a cluster and questions about it; one line on standard output answers them, in
// order. Nothing of our own decides a verdict: objects are parsed, rules resolved, addresses mapped to identities and keys
// looked up by Cilium's packages. What is ours is the wiring an agent does between them, and each piece of it names the
// function it follows.
//
//	{"seed":7,"node":"a","objects":[...],"flows":[{"from":"ns/pod","to":"192.0.2.1","protocol":"TCP","port":80}]}
//	{"seed":7,"refused":[],"flows":[{"egress":"allow","ingress":null}]}
//
// "node" is the node whose agent answers: its addresses ("host_addresses", and what its Node object says) are reserved:host,
// those of other nodes reserved:remote-node. "attached" lists the pods that are endpoints here, with their addresses;
// without it every pod is one, under the addresses in its status. "enforcement" is default, always or never. Verdicts:
// "allow", "deny", "open" (no rule selects that end), "conflict" (its rules for the proxy contradict each other), null (that end
// is not an endpoint here). Questions without a port, or of protocols that have none, are not answered: null at both ends.
//
// Only L3 and L4 are asked: a rule that redirects to a proxy or wants authentication opens nothing here.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime/debug"

	"github.com/cilium/cilium/pkg/option"
	"github.com/cilium/cilium/pkg/policy/api"
)

const clusterName = "default"

type question struct {
	Seed          uint64            `json:"seed"`
	Node          string            `json:"node"`
	HostAddresses []netip.Addr      `json:"host_addresses"`
	Attached      []attachment      `json:"attached"`
	Enforcement   string            `json:"enforcement"`
	Objects       []json.RawMessage `json:"objects"`
	Flows         []flow            `json:"flows"`
}

type attachment struct {
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
}

type flow struct {
	From     string `json:"from"`
	To       string `json:"to"`
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port"`
}

type answer struct {
	Seed    uint64    `json:"seed"`
	Error   string    `json:"error,omitempty"`
	Refused []refusal `json:"refused"`
	Flows   []verdict `json:"flows"`
}

type refusal struct {
	Object string `json:"object"`
	Error  string `json:"error"`
}

type verdict struct {
	Egress  *string `json:"egress"`
	Ingress *string `json:"ingress"`
}

func main() {
	configure()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := bufio.NewWriterSize(os.Stdout, 1<<16)
	decoder := json.NewDecoder(in)
	encoder := json.NewEncoder(out)
	for decoder.More() {
		var asked question
		if err := decoder.Decode(&asked); err != nil {
			fmt.Fprintln(os.Stderr, "cannot read a question:", err)
			os.Exit(1)
		}
		if err := encoder.Encode(reply(log, &asked)); err != nil {
			os.Exit(1)
		}
		// The other side waits for this answer before it has more to ask.
		if err := out.Flush(); err != nil {
			os.Exit(1)
		}
	}
}

// configure sets the options of an agent whose defaults this oracle stands for: both families, ICMP rules and
// enableDefaultDeny honoured, CIDRs never meaning nodes. That the local node is let in is in engine.distill.
func configure() {
	debug.SetGCPercent(400)
	option.Config.EnableIPv4 = true
	option.Config.EnableIPv6 = true
	option.Config.EnableICMPRules = true
	option.Config.EnableNonDefaultDenyPolicies = true
	option.Config.EnableL7Proxy = true
	option.Config.ClusterName = clusterName
	api.InitEntities(clusterName)
}

func reply(log *slog.Logger, asked *question) (answered answer) {
	answered = answer{Seed: asked.Seed, Refused: []refusal{}, Flows: []verdict{}}
	defer func() {
		if cause := recover(); cause != nil {
			answered = answer{Seed: asked.Seed, Error: fmt.Sprintf("panic: %v\n%s", cause, debug.Stack())}
		}
	}()
	cluster, err := readCluster(asked)
	if err != nil {
		answered.Error = err.Error()
		return
	}
	imported := cluster.importPolicies(log)
	addresses, err := cluster.mapAddresses(log, imported)
	if err != nil {
		answered.Error = err.Error()
		return
	}
	defer addresses.close()
	engine, err := newEngine(log, asked.Enforcement, cluster, imported, addresses)
	if err != nil {
		answered.Error = err.Error()
		return
	}
	answered.Refused = append(answered.Refused, imported.refused...)
	for i := range asked.Flows {
		judged, err := engine.judge(&asked.Flows[i])
		if err != nil {
			answered.Error = fmt.Sprintf("flow %d: %v", i, err)
			return
		}
		answered.Flows = append(answered.Flows, judged)
	}
	return
}
