"""What is integrated along a flow's path beside the state: the divergence and regularisers."""
