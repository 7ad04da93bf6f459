// What GitOps tools make of an object, by their own rules: kstatus (Flux, kpt) as its library
// computes it, and Argo CD as its Lua interpreter runs a health script.
//
//	gitops HEALTH.LUA < OBJECTS    one JSON object a line; one JSON answer a line
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type answer struct {
	Kstatus string `json:"kstatus"`
	Argo    string `json:"argo"`
	Message string `json:"message"`
}

func main() {
	script, err := os.ReadFile(os.Args[1])
	if err != nil {
		panic(err)
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(lines.Bytes()); err != nil {
			panic(err)
		}
		computed, err := status.Compute(object)
		if err != nil {
			panic(err)
		}
		health, message := argo(string(script), object.Object)
		text, err := json.Marshal(answer{computed.Status.String(), health, message})
		if err != nil {
			panic(err)
		}
		fmt.Println(string(text))
	}
}

// Argo CD gives a script the object as the global obj, and no libraries beyond the safe ones.
func argo(script string, object map[string]interface{}) (string, string) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable, lua.StringLibName: lua.OpenString,
	} {
		state.Push(state.NewFunction(open))
		state.Push(lua.LString(name))
		state.Call(1, 0)
	}
	state.SetGlobal("obj", value(state, object))
	if err := state.DoString(script); err != nil {
		panic(err)
	}
	result := state.Get(-1).(*lua.LTable)
	return lua.LVAsString(result.RawGetString("status")), lua.LVAsString(result.RawGetString("message"))
}

func value(state *lua.LState, found interface{}) lua.LValue {
	switch found := found.(type) {
	case map[string]interface{}:
		table := state.NewTable()
		for name, child := range found {
			table.RawSetString(name, value(state, child))
		}
		return table
	case []interface{}:
		table := state.NewTable()
		for _, child := range found {
			table.Append(value(state, child))
		}
		return table
	case string:
		return lua.LString(found)
	case bool:
		return lua.LBool(found)
	case int64:
		return lua.LNumber(found)
	case float64:
		return lua.LNumber(found)
	default:
		return lua.LNil
	}
}
