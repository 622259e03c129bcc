module github.com/preflight-go/preflight/examples

go 1.26.0

require github.com/preflight-go/preflight v0.0.0

replace github.com/preflight-go/preflight => ../
