package main

import (
	"bytes"
	"fmt"
	"os"

	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// anonymize replaces what names the machine: the identities of workers and clients, and the workers' own task queues, which are called after their host. A replay
// reads neither.
func anonymize(h *historypb.History) {
	walk(h.ProtoReflect(), func(m protoreflect.Message) {
		if q, ok := m.Interface().(*taskqueuepb.TaskQueue); ok && q.Kind == enumspb.TASK_QUEUE_KIND_STICKY {
			q.Name = "sticky"
		}
		if f := m.Descriptor().Fields().ByName("identity"); f != nil && f.Kind() == protoreflect.StringKind && m.Has(f) {
			m.Set(f, protoreflect.ValueOfString("worker"))
		}
	})
}

// check refuses a history in which the machine it was recorded on can still be recognised, inside of payloads too.
func check(h *historypb.History, private ...string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	if len(host) > 3 { // a name like "vm" is found in any text
		private = append(private, host)
	}
	if home, err := os.UserHomeDir(); err == nil && len(home) > 1 {
		private = append(private, home+"/")
	}
	raw, err := proto.Marshal(h)
	if err != nil {
		return err
	}
	for _, p := range private {
		if bytes.Contains(raw, []byte(p)) {
			return fmt.Errorf("it has %q in it", p)
		}
	}
	return nil
}

// walk visits a message and all messages in it.
func walk(m protoreflect.Message, visit func(protoreflect.Message)) {
	visit(m)
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					walk(v.Message(), visit)
					return true
				})
			}
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				walk(v.List().Get(i).Message(), visit)
			}
		default:
			walk(v.Message(), visit)
		}
		return true
	})
}
