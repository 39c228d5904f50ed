module fetchbench

go 1.26.0

require github.com/HdrHistogram/hdrhistogram-go v1.4.0

require (
	github.com/hashicorp/go-cleanhttp v0.5.2 // indirect
	github.com/mccutchen/go-httpbin/v2 v2.26.0 // indirect
	github.com/stretchr/testify v1.12.1 // indirect
	go.uber.org/goleak v1.3.0 // indirect
)
