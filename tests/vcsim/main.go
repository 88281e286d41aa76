// A vCenter for tests, of govmomi's simulator: main ADDRESS CERTIFICATE KEY
package main

import (
	"crypto/tls"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/vmware/govmomi/simulator"
)

func main() {
	model := simulator.VPX() // one datacenter DC0 with the cluster DC0_C0
	model.Machine, model.Datastore = 0, 2
	if err := model.Create(); err != nil {
		panic(err)
	}
	defer model.Remove() // the datastores' directories
	for _, each := range simulator.Map.All("Datastore") {
		each.(*simulator.Datastore).Summary.Type = "VMFS" // as Nova wants them
	}
	pair, err := tls.LoadX509KeyPair(os.Args[2], os.Args[3])
	if err != nil {
		panic(err)
	}
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	model.Service.Listen = &url.URL{Host: os.Args[1], User: url.UserPassword("nova", "s3cret pässword")}
	defer model.Service.NewServer().Close()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	<-ended
}
