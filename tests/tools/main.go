// Command control-plane is etcd, kube-apiserver, kube-controller-manager and
// kubectl in one file. It picks the program by the name it was called by, else
// by its first argument: linking the four together shares 90 % of their code
// and makes one build of what would be four.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	_ "time/tzdata" // Time zones for CronJobs, on machines without them.

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"            // The "json" log format.
	_ "k8s.io/component-base/metrics/prometheus/restclient" // Metrics of the clients inside.
	_ "k8s.io/component-base/metrics/prometheus/version"    // The version metric.
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	kcm "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

var programs = map[string]func(args []string){
	"etcd":                    etcdmain.Main,
	"kube-apiserver":          func([]string) { os.Exit(cli.Run(command(apiserver.NewAPIServerCommand))) },
	"kube-controller-manager": func([]string) { os.Exit(cli.Run(command(kcm.NewControllerManagerCommand))) },
	"kubectl": func([]string) {
		// As cmd/kubectl does: errors are printed in kubectl's words, not cobra's.
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			kubectlutil.CheckErr(err)
		}
	},
}

// command is here to keep the constructors lazy: both register flags in
// process-wide sets, so only the one that runs may be built.
func command(build func() *cobra.Command) *cobra.Command { return build() }

func main() {
	name := filepath.Base(os.Args[0])
	if _, known := programs[name]; !known && len(os.Args) > 1 {
		os.Args = os.Args[1:]
		name = filepath.Base(os.Args[0])
	}
	run, known := programs[name]
	if !known {
		fmt.Fprintf(os.Stderr, "control-plane: no program %q; have etcd, kube-apiserver, kube-controller-manager, kubectl\n", name)
		os.Exit(2)
	}
	run(os.Args)
}
