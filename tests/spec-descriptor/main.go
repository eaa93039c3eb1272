// Command spec-descriptor writes the descriptors of the protocols that wharf serves, as their owners publish them, as
// a FileDescriptorSet with its imports, to standard output. tests/proto.rs compares the files of proto/ with them.
package main

import (
	"log"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

func main() {
	set := &descriptorpb.FileDescriptorSet{}
	known := map[string]bool{}
	add(set, known, (&csi.ProbeRequest{}).ProtoReflect().Descriptor().ParentFile())
	add(set, known, (&registration.InfoRequest{}).ProtoReflect().Descriptor().ParentFile())
	bytes, err := proto.Marshal(set)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := os.Stdout.Write(bytes); err != nil {
		log.Fatal(err)
	}
}

// add appends a file after the files that it imports, each once.
func add(set *descriptorpb.FileDescriptorSet, known map[string]bool, file protoreflect.FileDescriptor) {
	if known[file.Path()] {
		return
	}
	known[file.Path()] = true
	imports := file.Imports()
	for i := range imports.Len() {
		add(set, known, imports.Get(i).FileDescriptor)
	}
	set.File = append(set.File, protodesc.ToFileDescriptorProto(file))
}
